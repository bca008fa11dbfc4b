from octavo import LLM, SamplingParams

llm = LLM("octavo-tiny")
tokenizer = llm.get_tokenizer()
messages = [{"role": "user", "content": "What is 17 + 25?"}]
text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
params = SamplingParams(temperature=0, max_tokens=16, stop_token_ids=[tokenizer.eos_token_id])
rendered = llm.generate([text], params)[0].outputs[0].text
ids = tokenizer(text)["input_ids"]
print(rendered, rendered == llm.chat(messages, params)[0].outputs[0].text, ids == tokenizer.encode(text))

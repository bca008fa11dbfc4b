from octavo import LLM, SamplingParams

llm = LLM(model="octavo-tiny", trust_remote_code=True, tensor_parallel_size=1)
tokenizer = llm.get_tokenizer()
questions = ["What is 17 + 25?", "What is 8 + 9?"]
prompts = [
    tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
    for text in questions
]
params = SamplingParams(temperature=0, max_tokens=32, stop_token_ids=[tokenizer.eos_token_id])
for output in llm.generate(prompts, params):
    ids = output.outputs[0].token_ids
    print(output.outputs[0].text, tokenizer.decode(ids, skip_special_tokens=True))

from octavo import LLM, SamplingParams

llm = LLM(model="octavo-tiny", trust_remote_code=True, tensor_parallel_size=1)
tokenizer = llm.get_tokenizer()
messages = [{"role": "user", "content": "Who are you?"}]

params = SamplingParams(temperature=0, max_tokens=100, stop=None, stop_token_ids=[tokenizer.eos_token_id])
answer = llm.chat(messages, params, use_tqdm=False)[0].outputs[0]
print(answer.token_ids[-1] == tokenizer.eos_token_id, answer.finish_reason, answer.stop_reason)
params.stop = "octavo"
answer = llm.chat(messages, params, use_tqdm=False)[0].outputs[0]
print(repr(answer.text), answer.finish_reason, answer.stop_reason)
params.include_stop_str_in_output = True
print(repr(llm.chat(messages, params, use_tqdm=False)[0].outputs[0].text))

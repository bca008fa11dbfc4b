from octavo import LLM, SamplingParams

llm = LLM(model="octavo-tiny", trust_remote_code=True, tensor_parallel_size=1)
params = SamplingParams(temperature=0, max_tokens=5, logprobs=3, prompt_logprobs=1, ignore_eos=True)
output = llm.generate("12 + 30 =", params, use_tqdm=False)[0]

answer = output.outputs[0]
for token_id, candidates in zip(answer.token_ids, answer.logprobs):
    chosen = candidates[token_id]
    print(token_id, repr(chosen.decoded_token), round(chosen.logprob, 4), chosen.rank, len(candidates))
print(round(answer.cumulative_logprob, 4))

scores = [entry[token_id].logprob for token_id, entry in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:])]
print(output.prompt_logprobs[0], len(scores), round(sum(scores), 4))

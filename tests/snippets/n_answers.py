from octavo import LLM, SamplingParams

llm = LLM(model="octavo-tiny", trust_remote_code=True, tensor_parallel_size=1)
params = SamplingParams(n=4, temperature=1.0, seed=7, max_tokens=12, logprobs=0)
output = llm.generate(["Once upon a time"], params, use_tqdm=False)[0]
for answer in output.outputs:
    print(answer.index, repr(answer.text))
best = max(output.outputs, key=lambda answer: answer.cumulative_logprob)
print(best.cumulative_logprob == max(answer.cumulative_logprob for answer in output.outputs), output.finished)

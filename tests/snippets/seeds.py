from octavo import LLM, SamplingParams

llm = LLM(model="octavo-tiny", trust_remote_code=True, tensor_parallel_size=1)
params = [SamplingParams(temperature=1.0, top_p=0.95, max_tokens=24, seed=seed) for seed in (1, 2, 1)]
first, second, again = (output.outputs[0].text for output in llm.generate(["Once upon a time"] * 3, params, False))
print(first == again, first != second)
print(repr(first))

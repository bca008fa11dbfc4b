from octavo import LLM, SamplingParams

llm = LLM("octavo-tiny")
params = SamplingParams(n=4, temperature=1.0, seed=3, max_tokens=8, ignore_eos=True)
output = llm.generate("one two", params)[0]
print([completion.index for completion in output.outputs], len({tuple(c.token_ids) for c in output.outputs}) > 1)
print(all(len(completion.token_ids) == 8 for completion in output.outputs), output.finished)

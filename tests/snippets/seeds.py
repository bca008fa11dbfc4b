from octavo import LLM, SamplingParams

llm = LLM("octavo-tiny", seed=0, enforce_eager=True, dtype="auto")
prompts = ["one two three"] * 3
params = [SamplingParams(temperature=1.0, seed=seed, max_tokens=16, ignore_eos=True) for seed in (7, 7, 8)]
first, again, other = [output.outputs[0].token_ids for output in llm.generate(prompts, params)]
print(first == again, first == other)

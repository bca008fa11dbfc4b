from octavo import LLM

llm = LLM("octavo-tiny")
params = llm.get_default_sampling_params()
params.max_tokens = 8
params.temperature = 0.0
copy = params.clone()
copy.max_tokens = 2
print(len(llm.generate("12 + 30 =", copy)[0].outputs[0].token_ids) <= 2, params.max_tokens)

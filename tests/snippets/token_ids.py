from octavo import LLM, SamplingParams
from octavo.inputs import TokensPrompt

llm = LLM("octavo-tiny")
tokenizer = llm.get_tokenizer()
ids = tokenizer.encode("12 + 30 =")
params = SamplingParams(temperature=0, max_tokens=4)
a = llm.generate(TokensPrompt(prompt_token_ids=ids), params, use_tqdm=False)
b = llm.generate({"prompt_token_ids": ids}, sampling_params=params, use_tqdm=False)
c = llm.generate(prompt_token_ids=[ids], sampling_params=params, use_tqdm=False)
d = llm.generate([ids], params, False)
print({tuple(outputs[0].outputs[0].token_ids) for outputs in (a, b, c, d)}.__len__())

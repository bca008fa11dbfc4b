from octavo import LLM, SamplingParams
from octavo.inputs import TokensPrompt

llm = LLM(model="octavo-tiny", trust_remote_code=True, tensor_parallel_size=1)
ids = llm.get_tokenizer().encode("12 + 30 =")
params = SamplingParams(temperature=0, max_tokens=16)
prompts = [ids, {"prompt_token_ids": ids}, TokensPrompt(prompt_token_ids=ids), {"prompt": "12 + 30 ="}]
texts = {output.outputs[0].text for output in llm.generate(prompts, params, use_tqdm=False)}
texts |= {output.outputs[0].text for output in llm.generate(prompt_token_ids=[ids], sampling_params=params)}
print(texts)

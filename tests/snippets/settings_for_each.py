from octavo import LLM
from octavo.sampling_params import SamplingParams

llm = LLM(model="octavo-tiny", trust_remote_code=True, tensor_parallel_size=1)
base = SamplingParams(temperature=0.0, ignore_eos=True)
params = []
for max_tokens in (1, 4, 9):
    each = base.clone()
    each.max_tokens = max_tokens
    params.append(each)
outputs = llm.generate(["a b c", "1 2 3", "x y z"], params, use_tqdm=False)
print([len(output.outputs[0].token_ids) for output in outputs], [output.outputs[0].finish_reason for output in outputs])
print(base.max_tokens)

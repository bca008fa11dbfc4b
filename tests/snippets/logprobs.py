from octavo import LLM, SamplingParams

llm = LLM("octavo-tiny")
params = SamplingParams(temperature=0, max_tokens=3, logprobs=5, prompt_logprobs=1)
(output,) = llm.generate(["12 + 30 ="], params)
for token_id, entry in zip(output.outputs[0].token_ids, output.outputs[0].logprobs):
    best = max(entry.values(), key=lambda logprob: logprob.logprob)
    assert entry[token_id].rank == 1 and entry[token_id].decoded_token == best.decoded_token
print(len(output.prompt_token_ids) == len(output.prompt_logprobs), output.prompt_logprobs[0])
print(
    round(sum(entry[token].logprob for token, entry in zip(output.outputs[0].token_ids, output.outputs[0].logprobs)), 4)
    == round(output.outputs[0].cumulative_logprob, 4)
)

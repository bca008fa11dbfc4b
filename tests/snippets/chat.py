from octavo import LLM, SamplingParams

llm = LLM(model="octavo-tiny", trust_remote_code=True, tensor_parallel_size=1)
sampling_params = llm.get_default_sampling_params()
sampling_params.temperature = 0.0
sampling_params.max_tokens = 100

conversation = [
    {"role": "user", "content": "What is 17 + 25?"},
    {"role": "assistant", "content": "42"},
    {"role": "user", "content": [{"type": "text", "text": "Who are you?"}]},
]
outputs = llm.chat(conversation, sampling_params=sampling_params, use_tqdm=False)
print(outputs[0].outputs[0].text, outputs[0].outputs[0].finish_reason)

conversations = [[{"role": "user", "content": f"What is {number} + 25?"}] for number in range(17, 20)]
outputs = llm.chat(
    messages=conversations,
    sampling_params=SamplingParams(temperature=0, max_tokens=100),
    use_tqdm=False,
    add_generation_prompt=True,
    chat_template_kwargs={"enable_thinking": False},
)
for output in outputs:
    print(output.outputs[0].text)

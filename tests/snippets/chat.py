from octavo import LLM, SamplingParams

llm = LLM(model="octavo-tiny", trust_remote_code=True, tensor_parallel_size=1, gpu_memory_utilization=0.9)
conversation = [
    {"role": "system", "content": "You are a helpful assistant"},
    {"role": "user", "content": [{"type": "text", "text": "What is 17 + 25?"}]},
]
outputs = llm.chat(conversation, SamplingParams(temperature=0.0, max_tokens=32), use_tqdm=False)
print(outputs[0].outputs[0].text)

conversations = [[{"role": "user", "content": f"What is {a} + 30?"}] for a in (12, 41)]
for output in llm.chat(conversations, SamplingParams(temperature=0.0), add_generation_prompt=True):
    print(output.outputs[0].text, output.outputs[0].finish_reason)

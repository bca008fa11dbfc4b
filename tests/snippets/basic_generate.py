from octavo import LLM, SamplingParams

prompts = ["12 + 30 =", "Sort 3 1 2:", "Hello, my name is"]
sampling_params = SamplingParams(temperature=0.0, max_tokens=16)

llm = LLM(model="octavo-tiny", trust_remote_code=True, tensor_parallel_size=1)
outputs = llm.generate(prompts, sampling_params)

for output in outputs:
    prompt = output.prompt
    generated_text = output.outputs[0].text
    print(f"Prompt: {prompt!r}, Generated text: {generated_text!r}")

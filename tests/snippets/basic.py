from octavo import LLM, SamplingParams

prompts = ["Hello, my name is", "The president of the United States is", "The capital of France is", "What is 17 + 25?"]
sampling_params = SamplingParams(temperature=0.8, top_p=0.95, seed=1)


def main():
    llm = LLM(model="octavo-tiny")
    outputs = llm.generate(prompts, sampling_params)
    for output in outputs:
        prompt = output.prompt
        generated_text = output.outputs[0].text
        print(f"Prompt: {prompt!r}, Generated text: {generated_text!r}")


if __name__ == "__main__":
    main()

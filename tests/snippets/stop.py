from octavo import LLM, SamplingParams

llm = LLM("octavo-tiny", max_model_len=512)
params = SamplingParams(temperature=0, max_tokens=40, stop="2", include_stop_str_in_output=False)
output = llm.chat([{"role": "user", "content": "What is 17 + 25?"}], params)[0].outputs[0]
print(repr(output.text), output.finish_reason, output.stop_reason)

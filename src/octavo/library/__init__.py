"""The parts that `LLM` and `AsyncLLM` share."""

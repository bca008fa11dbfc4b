"""What `LLM` and `AsyncLLM` share."""

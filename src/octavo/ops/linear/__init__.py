"""y = x @ W^T + b, with W in bf16 or in FP8 with one scale per output channel."""

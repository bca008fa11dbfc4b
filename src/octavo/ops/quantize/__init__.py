"""bf16 rows to FP8."""

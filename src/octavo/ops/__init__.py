"""Operations on tensors: a folder for each, with what computes it on a CPU and on CUDA, and a reference."""

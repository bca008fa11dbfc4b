"""PyTorch's own layers on CUDA: what Octavo's kernels are compared with. Their bits may change with the batch."""

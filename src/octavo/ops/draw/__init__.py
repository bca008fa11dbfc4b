"""The draw of a token from all ids, by masses that are whole numbers."""

from __future__ import annotations

import torch

from octavo.ops.draw.cpu import cpu_draw


def draw(logits: torch.Tensor, temperature: torch.Tensor, min_p: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The first id at which the cumulative mass of a row exceeds number x total, in order of id.

    The mass of an id is exp((x - max x) / T) in units of 2^-42, 0 below min_p. A row's result depends on that row alone.

    Args:
        logits: (R, V) float32, V at most 2^20, on the CPU or on CUDA; read.
        temperature: (R,) float64, above 0; read.
        min_p: (R,) float64 in [0, 1]; read.
        numbers: (R,) float64 in [0, 1); read.

    Returns:
        (R,) int64 in 0..V-1, new; an id without mass only in a row without any, or that is not finite.

    Raises:
        KernelContractError: a tensor has another dtype, size or device.
    """
    if logits.is_cuda:
        from octavo.ops.draw.cuda import cuda_draw  # needs Triton, which a CPU does not

        return cuda_draw(logits, temperature, min_p, numbers)
    return cpu_draw(logits, temperature, min_p, numbers)

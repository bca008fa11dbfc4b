"""The draw of a token by masses that are whole numbers, from all ids or from the likeliest."""

from __future__ import annotations

import torch

from octavo.ops.draw.cpu import cpu_draw, cpu_draw_truncated
from octavo.ops.draw.settings import DrawSettings

__all__ = ["DrawSettings", "draw", "draw_truncated"]


def draw(logits: torch.Tensor, settings: DrawSettings, highest: torch.Tensor | None = None) -> torch.Tensor:
    """The first id at which the cumulative mass of a row exceeds number x total, in order of id.

    The mass of an id is exp((x - max x) / T) in units of 2^-42, 0 below min_p. A row's result depends on that row alone.

    Args:
        logits: (R, V) float32, V at most 2^20, on the CPU or on CUDA; read.
        settings: of the R rows, on the same device; top_k and top_p do not count; read.
        highest: (R,) float32, the largest of each row, where it is known; read.

    Returns:
        (R,) int64 in 0..V-1, new; an id without mass only in a row without any, or that is not finite.

    Raises:
        KernelContractError: a tensor has another dtype, size or device.
    """
    if logits.is_cuda:
        from octavo.ops.draw.cuda import cuda_draw  # needs Triton, which a CPU does not

        return cuda_draw(logits, settings, highest)
    return cpu_draw(logits, settings)


def draw_truncated(
    logits: torch.Tensor, settings: DrawSettings, highest: torch.Tensor | None = None, *, most: int
) -> torch.Tensor:
    """The same among the likeliest ids, in order of likelihood, the lower id first among equals.

    They are the first top_k, and of these the shortest head whose mass reaches top_p of theirs.

    Args:
        logits: (R, V) float32, V at most 2^20, on the CPU or on CUDA; read.
        settings: of the R rows, on the same device; read.
        highest: (R,) float32, the largest of each row, where it is known; read.
        most: no top_k is larger, and none is 0; 0: that is not known.

    Returns:
        (R,) int64 in 0..V-1, new; an id without mass only in a row without any, or that is not finite.

    Raises:
        KernelContractError: a tensor has another dtype, size or device.
    """
    if logits.is_cuda:
        from octavo.ops.draw.cuda import cuda_draw_truncated

        return cuda_draw_truncated(logits, settings, highest, most=most)
    return cpu_draw_truncated(logits, settings, most=most)

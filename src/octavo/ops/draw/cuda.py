"""The draw in a few kernels: PyTorch's operations go over float64 and int64 copies of all logits, ten times."""

from __future__ import annotations

import torch
import triton

from octavo.ops.contract import check_range
from octavo.ops.draw.kernel import draw_kernel, draw_sorted_kernel, sum_masses_kernel
from octavo.ops.draw.select import select
from octavo.ops.draw.settings import DrawSettings, largest_of
from octavo.ops.largest import MAX_FEW, largest
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid

__all__ = ["cuda_draw", "cuda_draw_truncated"]

SEGMENT = 2048
FEWEST = 4 * MAX_FEW * 128
"""Ids of a vocabulary from which on the likeliest are found by `largest`."""


def cuda_draw(logits: torch.Tensor, settings: DrawSettings, highest: torch.Tensor | None = None) -> torch.Tensor:
    """See `draw`; all tensors on CUDA, contiguous.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    dims = LaunchDims()
    settings.check(dims, logits)
    rows, width = dims["R"], dims["V"]
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        segments = -(-width // SEGMENT)
        highest = largest_of(dims, logits, highest)
        sums = torch.empty((rows, segments), dtype=torch.int64, device=logits.device)
        sum_masses_kernel[check_grid("draw", rows * segments)](
            logits, highest, settings.values, sums, rows, width, segments, SEGMENT=SEGMENT, num_warps=4, **LAUNCH
        )
        draw_kernel[check_grid("draw", rows)](
            logits, highest, settings.values, sums, out, rows, width, segments,
            SEGMENT=SEGMENT, SEGMENTS=triton.next_power_of_2(segments), num_warps=4, **LAUNCH,
        )  # fmt: skip
    return out


def cuda_draw_truncated(
    logits: torch.Tensor, settings: DrawSettings, highest: torch.Tensor | None = None, *, most: int
) -> torch.Tensor:
    """See `draw_truncated`; all tensors on CUDA, contiguous.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    settings.check(LaunchDims(), logits)
    if 0 < most <= MAX_FEW and logits.shape[1] >= FEWEST:
        return draw_sorted(logits, largest(logits, most), settings)
    return select(logits, settings, highest)


def draw_sorted(logits: torch.Tensor, ids: torch.Tensor, settings: DrawSettings) -> torch.Tensor:
    """`draw_truncated` of rows whose top_k is at most N.

    Args:
        logits: (R, V) float32, on CUDA; read.
        ids: (R, N) int64 in 0..V-1, the likeliest first, N at most `MAX_FEW`; read.
        settings: of the R rows; read.

    Returns:
        (R,) int64, new.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    dims = LaunchDims()
    settings.check(dims, logits)
    dims.check("ids", ids, ("R", "N"), dtype=torch.int64)
    check_range("ids.shape[1]", dims["N"], 1, MAX_FEW, "pass fewer, or select")
    rows, width = dims["R"], dims["V"]
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        draw_sorted_kernel[check_grid("draw", rows)](
            logits, ids, settings.values, out, rows, width, dims["N"],
            COUNT=triton.next_power_of_2(dims["N"]), num_warps=1, **LAUNCH,
        )  # fmt: skip
    return out

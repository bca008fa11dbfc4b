"""The draw in two kernels: PyTorch's operations go over float64 and int64 copies of all logits, ten times."""

from __future__ import annotations

import torch
import triton

from octavo.ops.contract import check_range
from octavo.ops.draw.cpu import check_draw
from octavo.ops.draw.fixed_point import MAX_VOCAB
from octavo.ops.draw.kernel import draw_kernel, sum_masses_kernel
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid

__all__ = ["cuda_draw"]

SEGMENT = 2048


def cuda_draw(
    logits: torch.Tensor, temperature: torch.Tensor, min_p: torch.Tensor, numbers: torch.Tensor
) -> torch.Tensor:
    """See `draw`; all tensors on CUDA, contiguous.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    dims = LaunchDims()
    check_draw(dims, logits, temperature, min_p, numbers)
    rows, width = dims["R"], dims["V"]
    check_range("logits.shape[1]", width, 1, MAX_VOCAB, "the masses of more ids do not fit an int64")
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        segments = -(-width // SEGMENT)
        highest = logits.amax(-1)
        sums = torch.empty((rows, segments), dtype=torch.int64, device=logits.device)
        sum_masses_kernel[check_grid("draw", rows * segments)](
            logits, highest, temperature, min_p, sums, width, segments, SEGMENT=SEGMENT, num_warps=4, **LAUNCH
        )
        draw_kernel[check_grid("draw", rows)](
            logits, highest, temperature, min_p, numbers, sums, out, width, segments,
            SEGMENT=SEGMENT, SEGMENTS=triton.next_power_of_2(segments), num_warps=4, **LAUNCH,
        )  # fmt: skip
    return out

"""The peak in one pass over a row; PyTorch's operations go over it twice, in nine launches."""

from __future__ import annotations

import torch
import triton

from octavo.ops.contract import INDEX_LIMIT, check_range
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid
from octavo.ops.peak import Peak
from octavo.ops.peak.kernel import merge_peaks_kernel, peak_kernel

__all__ = ["cuda_peak"]

SEGMENT = 2048
"""Columns of a program where a row has several."""
MAX_ALONE = 8192
"""Most columns that one program goes through by itself."""


def cuda_peak(rows: torch.Tensor) -> Peak:
    """See `peak`; on CUDA, contiguous.

    Raises:
        KernelContractError: `rows` has another shape, dtype or device.
    """
    dims = LaunchDims()
    dims.check("rows", rows, ("R", "N"), dtype=(torch.float32, torch.bfloat16))
    count, width, device = dims["R"], dims["N"], rows.device
    check_range("rows.shape[1]", width, 1, INDEX_LIMIT, "a row needs a number")
    finite = torch.empty(count, dtype=torch.bool, device=device)
    highest = torch.empty(count, dtype=torch.float32, device=device)
    column = torch.empty(count, dtype=torch.int64, device=device)
    results = finite.view(torch.uint8), highest, column
    alone = width <= MAX_ALONE
    segment = triton.next_power_of_2(width) if alone else SEGMENT
    segments = -(-width // segment)
    if count:
        tops, places, flaws = (
            highest if alone else torch.empty((count, segments), dtype=kind, device=device)
            for kind in (torch.float32, torch.int32, torch.int32)
        )
        peak_kernel[check_grid("peak", count * segments)](
            rows, tops, places, flaws, *results, width, segments, SEGMENT=segment, ALONE=alone, num_warps=4, **LAUNCH
        )
        if not alone:
            merge_peaks_kernel[check_grid("peak", count)](
                tops, places, flaws, *results, segments, SEGMENTS=triton.next_power_of_2(segments), num_warps=1, **LAUNCH
            )  # fmt: skip
    return Peak(finite, highest, column)

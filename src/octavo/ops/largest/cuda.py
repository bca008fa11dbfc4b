"""The largest numbers in two kernels; PyTorch's own top-k goes over int64 keys of all columns, several times."""

from __future__ import annotations

import torch
import triton

from octavo.ops.contract import INDEX_LIMIT, check_range
from octavo.ops.largest import MAX_FEW
from octavo.ops.largest.cpu import GROUP
from octavo.ops.largest.kernel import largest_kernel, maxima_kernel
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid

__all__ = ["cuda_largest"]

GROUPS_PER_PROGRAM = 32
MAX_GROUPS = 8192
"""That a program keeps in registers: 2^20 columns."""


def cuda_largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """See `largest`; on CUDA, contiguous, of at least `count` groups of 128 columns.

    Args:
        values: (R, N) float32; read.
        count: 1 to `MAX_FEW`.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    dims = LaunchDims()
    dims.check("values", values, ("R", "N"), dtype=torch.float32)
    rows, width = dims["R"], dims["N"]
    groups = -(-width // GROUP)
    check_range("values.shape[1]", width, 1, MAX_GROUPS * GROUP, "the kernel keeps the groups of a row in registers")
    check_range("count", count, 1, min(MAX_FEW, width // GROUP), "ask for fewer, or sort")
    check_range("R x groups", rows * groups, 0, INDEX_LIMIT, "pass fewer rows in one call")
    out = torch.empty((rows, count), dtype=torch.int64, device=values.device)
    if rows:
        maxima = torch.empty((rows, groups), dtype=torch.float32, device=values.device)
        maxima_kernel[check_grid("largest", rows * -(-groups // GROUPS_PER_PROGRAM))](
            values, maxima, width, groups, GROUP=GROUP, GROUPS=GROUPS_PER_PROGRAM, num_warps=4, **LAUNCH
        )
        largest_kernel[check_grid("largest", rows)](
            values, maxima, out, width, groups, count,
            GROUP=GROUP, GROUPS=triton.next_power_of_2(groups), COUNT=triton.next_power_of_2(count), num_warps=8, **LAUNCH,
        )  # fmt: skip
    return out

"""The largest numbers of each row, the largest first."""

from __future__ import annotations

import torch

from octavo.ops.largest.cpu import GROUP, cpu_largest

MAX_FEW = 64
"""Most that the kernel finds."""


def largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """(R, count) int64: columns of the largest of (R, N) float32 without NaN, the largest first, ties to the lower column.

    With NaN in a row its columns have no meaning, but are columns; other rows are as they are without.
    """
    if values.is_cuda and count <= MAX_FEW and 0 < 4 * count * GROUP <= values.shape[1]:
        from octavo.ops.largest.cuda import cuda_largest  # needs Triton, which a CPU does not

        return cuda_largest(values, count)
    return cpu_largest(values, count)

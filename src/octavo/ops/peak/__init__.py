"""The largest number of each row, where it is, and whether all of the row can be used."""

from __future__ import annotations

import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class Peak:
    """Of R rows of N columns."""

    finite: torch.Tensor
    """(R,) bool: no NaN and no infinity in the row."""
    highest: torch.Tensor
    """(R,) float32 the largest; NaN where the row has one."""
    column: torch.Tensor | None
    """(R,) int64 in 0..N-1 where it is, the lower column among equals; without meaning where the row has NaN. None: nobody asked, and it
    would have cost something."""


def peak(rows: torch.Tensor, *, find: bool = True) -> Peak:
    """The `Peak` of (R, N) float32 or bf16, N at least 1, read; new tensors. `find`: whether its column is asked for."""
    if rows.is_cuda:
        from octavo.ops.peak.cuda import cuda_peak  # needs Triton, which a CPU does not

        return cuda_peak(rows)
    from octavo.ops.peak.cpu import cpu_peak

    return cpu_peak(rows, find=find)

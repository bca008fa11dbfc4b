"""The largest numbers of each row by Python's sort."""

from __future__ import annotations

import torch


def largest_reference(values: torch.Tensor, count: int) -> list[list[int]]:
    """Columns of the largest of (R, N); see `largest`."""
    return [
        sorted(range(len(row)), key=lambda column, row=row: (-row[column], column))[:count]  # type: ignore[misc]
        for row in values.tolist()
    ]

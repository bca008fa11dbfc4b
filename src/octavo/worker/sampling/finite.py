"""Which rows hold numbers that can be used."""

from __future__ import annotations

import torch


def finite_rows(rows: torch.Tensor) -> torch.Tensor:
    """(R,) bool: no NaN and no infinity in the row.

    One pass: a row's least and largest number are NaN if any number is.

    Args:
        rows: (R, N) float, N at least 1; not written.
    """
    least, largest = rows.aminmax(dim=-1)
    return (least > -torch.inf) & (largest < torch.inf)

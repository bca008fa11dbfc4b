"""Which rows hold numbers that can be used."""

from __future__ import annotations

import torch


def finite_rows(rows: torch.Tensor) -> torch.Tensor:
    """(R,) bool: no NaN and no infinity in the row.

    One pass: a row's least and largest number are NaN if any number is.

    Args:
        rows: (R, N) float, N at least 1; not written.
    """
    return finite_and_highest(rows)[0]


def finite_and_highest(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, and the largest of each row (R,), NaN where one is; see `finite_rows`."""
    least, highest = rows.aminmax(dim=-1)
    return (least > -torch.inf) & (highest < torch.inf), highest

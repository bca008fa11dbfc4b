"""Integers that order floats, and equal floats by their place."""

from __future__ import annotations

import torch

LOW_BITS = 0xFFFFFFFF


def sort_keys(values: torch.Tensor) -> torch.Tensor:
    """(R, N) int64: larger for larger values (R, N) float32 without NaN, and for the lower column of equal ones.

    The bits of a float, the negative ones flipped, are in the order of the floats. With N - 1 - column below them no two
    keys of a row are equal, so every correct sort or top-k gives the same answer.
    """
    bits = (values + 0.0).view(torch.int32)  # adding 0 turns -0 into +0
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32
    return ordered + torch.arange(values.shape[1] - 1, -1, -1, device=values.device)


def columns_of(keys: torch.Tensor, num_columns: int) -> torch.Tensor:
    """The columns that `keys` were made of, of rows with `num_columns`; in the shape of `keys`, int64."""
    return num_columns - 1 - (keys & LOW_BITS)

"""Integers that order floats, and equal floats by their place."""

from __future__ import annotations

import numpy as np
import torch

LOW_BITS = 0xFFFFFFFF
GROUP = 128
"""Columns that are judged by their largest."""


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


def largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """(R, count) int64: columns of the largest of (R, N) float32 without NaN, the largest first, ties to the lower column.

    Of groups of columns only those with the `count` largest maxima can hold one of the `count` largest: where few are wanted,
    the others are left out before anything is sorted.
    """
    width = values.shape[1]
    if not 0 < count * GROUP * 4 <= width:
        return columns_of(_top(sort_keys(values), count), width)
    whole = width // GROUP * GROUP
    maxima = values[:, :whole].unflatten(1, (-1, GROUP)).amax(-1)
    if whole < width:
        maxima = torch.cat((maxima, values[:, whole:].amax(-1, keepdim=True)), dim=1)
    groups = largest(maxima, count).sort(dim=-1).values
    columns = (groups[:, :, None] * GROUP + torch.arange(GROUP, device=values.device)).flatten(1)
    held = values.gather(1, columns.clamp(max=width - 1))
    held = torch.where(columns < width, held, -torch.inf)
    return columns.gather(1, columns_of(_top(sort_keys(held), count), held.shape[1]))


def _top(keys: torch.Tensor, count: int) -> torch.Tensor:
    """(R, count) int64: the largest of (R, N) int64 first. On a CPU NumPy sorts a whole row before PyTorch finds its top."""
    if keys.is_cuda:
        return keys.topk(count, dim=-1).values
    ordered = np.sort(keys.numpy(), axis=-1)
    return torch.from_numpy(ordered[:, ::-1][:, :count].copy())

"""The largest numbers in PyTorch's operations, on any device."""

from __future__ import annotations

import numpy as np
import torch

from octavo.ops.sort_keys import columns_of, sort_keys

GROUP = 128
"""Columns that are judged by their largest."""


def cpu_largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """See `largest`.

    Of groups of columns only those with the `count` largest maxima can hold one of the `count` largest: where few are wanted,
    the others are left out before anything is sorted.
    """
    width = values.shape[1]
    if not 0 < 4 * count * GROUP <= width:
        return columns_of(_top(sort_keys(values), count), width)
    # NaN with a sign would sort below what fills the last group, whose columns are none
    values = torch.where(values == values, values, -torch.inf)
    whole = width // GROUP * GROUP
    maxima = values[:, :whole].unflatten(1, (-1, GROUP)).amax(-1)
    if whole < width:
        maxima = torch.cat((maxima, values[:, whole:].amax(-1, keepdim=True)), dim=1)
    groups = cpu_largest(maxima, count).sort(dim=-1).values
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

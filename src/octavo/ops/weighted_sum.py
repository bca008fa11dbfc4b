"""A sum of expert outputs that nobody has added up yet."""

from __future__ import annotations

import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class WeightedSum:
    """out[t] = bf16(sum over k, in assignment order, of weights[t, k] * parts[t x K + k]) in float32, for `combine` or `add_norm`.

    A part whose id is negative or >= experts is not read and adds nothing. A row at `rows_in_use` or later is zero.
    """

    parts: torch.Tensor
    """(S, H) bf16, S >= T x K; the next expert layer of the model overwrites it."""
    ids: torch.Tensor
    """(T, K) int32"""
    weights: torch.Tensor
    """(T, K) f32"""
    experts: int
    rows_in_use: torch.Tensor | None = None
    """(1,) int32 on the device; None: all."""


Addend = torch.Tensor | WeightedSum
"""What a layer adds to the rows that it read: (T, H) bf16, or how to make it."""

"""A norm behind a sum: the call that every back end offers."""

from __future__ import annotations

from typing import Protocol

import torch

from octavo.ops.inputs import Inputs
from octavo.ops.weighted_sum import Addend


class AddNorm(Protocol):
    """A root-mean-square norm of a sum, bound to its weight and to the layers that read it."""

    def __call__(self, x: torch.Tensor, change: Addend | None) -> tuple[torch.Tensor, Inputs]:
        """x + change, and its norm: x (T, H) bf16 -> (T, H) bf16, new or x itself, and the rows that the layers behind read."""
        ...

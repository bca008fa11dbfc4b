"""An expert layer: the weights that it is made of, and the call that every back end offers."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch

from octavo.ops.formats import LinearWeight
from octavo.ops.inputs import Inputs
from octavo.ops.weighted_sum import Addend


@dataclasses.dataclass(frozen=True)
class ExpertWeights:
    """The stacked MLPs of E experts."""

    gate_up: LinearWeight
    """(E, 2I, H), gate rows first"""
    down: LinearWeight
    """(E, H, I)"""


class Experts(Protocol):
    """An expert layer bound to its weights."""

    def __call__(
        self, x: torch.Tensor | Inputs, logits: torch.Tensor, rows_in_use: torch.Tensor | None = None
    ) -> torch.Tensor:
        """sum over the top-k experts e of w[e] * down[e] (silu(gate[e] x) * (up[e] x)).

        x (T, H) bf16, or as a norm made it, logits (T, L) float32 of the router, as many as the rule has for E experts -> (T, H) bf16. A row whose logits are not all finite is NaN.
        rows_in_use (1,) int32 on the device of x: how many first rows are in use; nothing need be computed for the others, and
        what comes out of them has no meaning. None: all.
        """
        ...

    def addend(self, x: torch.Tensor | Inputs, logits: torch.Tensor, rows_in_use: torch.Tensor | None = None) -> Addend:
        """As `__call__`, for an `AddNorm`, which may be left to sum over k; read before the next layer's experts are called."""
        ...

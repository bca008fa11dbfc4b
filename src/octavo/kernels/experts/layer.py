"""What an expert layer is made of and what it can do."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch

from octavo.kernels.linear import LinearWeight


@dataclasses.dataclass(frozen=True)
class ExpertWeights:
    """The stacked MLPs of E experts."""

    gate_up: LinearWeight
    """(E, 2I, H), gate rows first"""
    down: LinearWeight
    """(E, H, I)"""


class Experts(Protocol):
    """An expert layer bound to its weights."""

    def __call__(self, x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """sum over the top-k experts e of w[e] * down[e] (silu(gate[e] x) * (up[e] x)).

        x (T, H) bf16, logits (T, E) float32 of the router -> (T, H) bf16. A row whose logits are not all finite is NaN.
        """
        ...

"""A linear layer: the calls that every back end offers."""

from __future__ import annotations

from typing import Protocol

import torch

from octavo.ops.inputs import Inputs


class Linear(Protocol):
    """A linear layer bound to its weight."""

    def __call__(self, x: torch.Tensor | Inputs) -> torch.Tensor:
        """x @ W^T + b; x (T, K) bf16, or as a norm made it -> (T, N) bf16."""
        ...

    def float32(self, x: torch.Tensor | Inputs) -> torch.Tensor:
        """Computes what the call computes, not rounded to bf16: x (T, K) bf16 -> (T, N) float32."""
        ...

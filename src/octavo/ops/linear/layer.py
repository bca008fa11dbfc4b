"""A linear layer: the calls that every back end offers."""

from __future__ import annotations

from typing import Protocol

import torch


class Linear(Protocol):
    """A linear layer bound to its weight."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x @ W^T + b; x (T, K) bf16 -> (T, N) bf16."""
        ...

    def float32(self, x: torch.Tensor) -> torch.Tensor:
        """Computes what the call computes, not rounded to bf16: x (T, K) bf16 -> (T, N) float32."""
        ...

"""Weights of linear layers as the checkpoint stores them, and what a layer made of them can do."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch


@dataclasses.dataclass(frozen=True)
class Bf16Weight:
    """W in bf16."""

    data: torch.Tensor
    """(..., N, K) bf16; leading dimensions number experts."""
    bias: torch.Tensor | None = None
    """(N,) bf16"""


@dataclasses.dataclass(frozen=True)
class Fp8Weight:
    """W = data * scale."""

    data: torch.Tensor
    """(..., N, K) float8_e4m3fn; leading dimensions number experts."""
    scale: torch.Tensor
    """(..., N) float32"""
    bias: torch.Tensor | None = None
    """(N,) bf16"""


LinearWeight = Bf16Weight | Fp8Weight


class Linear(Protocol):
    """A linear layer bound to its weight."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x @ W^T + b; x (T, K) bf16 -> (T, N) bf16."""
        ...

    def float32(self, x: torch.Tensor) -> torch.Tensor:
        """The same, not rounded to bf16: x (T, K) bf16 -> (T, N) float32."""
        ...

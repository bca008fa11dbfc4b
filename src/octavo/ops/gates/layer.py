"""Gates: the calls that every back end offers."""

from __future__ import annotations

from typing import Protocol

import torch


class Gates(Protocol):
    """Rows multiplied by a function of others; all of it in float32, rounded to bf16 at the end. A row's bits depend on that row alone."""

    def swiglu(self, gate_up: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up; gate_up (T, 2I) float32, gates first -> (T, I) bf16, new."""
        ...

    def norm(self, x: torch.Tensor, gates: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """silu(gates) * bf16(norm of each head); x (R, heads * D) bf16, gates (R, heads, D) bf16, weight (D,) -> (R, heads * D) bf16, new."""
        ...

    def heads(self, x: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        """x * bf16(sigmoid(gates)); x (R, heads * D) bf16, gates (R, heads, D) bf16 -> (R, heads * D) bf16, new."""
        ...

    def add_share(self, x: torch.Tensor, shared: torch.Tensor, logits: torch.Tensor | None) -> torch.Tensor:
        """x + sigmoid(logits) * shared; x and shared (T, H) bf16, logits (T, 1) float32, None: 1 -> (T, H) bf16, new."""
        ...

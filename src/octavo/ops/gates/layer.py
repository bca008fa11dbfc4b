"""Gates: the calls that every back end offers."""

from __future__ import annotations

from typing import Protocol

import torch

from octavo.ops.activations import Activations, Unscaled
from octavo.ops.inputs import Inputs


class Gates(Protocol):
    """Rows multiplied by a function of others; all of it in float32, rounded to bf16 at the end. A row's bits depend on that row alone."""

    def swiglu(self, gate_up: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up; gate_up (T, 2I) float32, gates first -> (T, I) bf16, new."""
        ...

    def norm(
        self, x: torch.Tensor, gates: torch.Tensor, weight: torch.Tensor, eps: float, form: type[Activations] = Unscaled
    ) -> Inputs:
        """silu(gates) * bf16(norm of each head); x (R, heads * D) bf16, gates (R, heads, D) bf16 or in groups of heads (R, groups, heads of
        each, D), weight (D,) -> (R, heads * D), new, in `form` or in bf16, which is left to who reads it."""
        ...

    def heads(self, x: torch.Tensor, gates: torch.Tensor, form: type[Activations] = Unscaled) -> Inputs:
        """x * bf16(sigmoid(gates)); x (R, heads * D) bf16, gates (R, heads, D) bf16 -> (R, heads * D), new, as of `norm`."""
        ...

    def add_share(self, x: torch.Tensor, shared: torch.Tensor, logits: torch.Tensor | None) -> torch.Tensor:
        """x + sigmoid(logits) * shared; x and shared (T, H) bf16, logits (T, 1) float32, None: 1 -> (T, H) bf16, new."""
        ...

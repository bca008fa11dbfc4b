"""Gates in plain float64."""

from __future__ import annotations

import torch

from octavo.ops.norm.reference import rms_norm_reference


def swiglu_reference(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up; (T, 2I) -> (T, I) float64, never rounded."""
    gate, up = gate_up.double().chunk(2, dim=-1)
    return gate * gate.sigmoid() * up


def norm_reference(x: torch.Tensor, gates: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """silu(gates) * norm(x) of each head; x (R, heads * D), gates (R, heads, D), weight (D,) -> (R, heads * D) float64."""
    wide = gates.double()
    return (wide * wide.sigmoid() * rms_norm_reference(x.reshape(gates.shape), weight, eps)).flatten(1)


def heads_reference(x: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """x * sigmoid(gates); x (R, heads * D), gates (R, heads, D) -> (R, heads * D) float64."""
    return x.double() * gates.double().sigmoid().flatten(1)


def add_share_reference(x: torch.Tensor, shared: torch.Tensor, logits: torch.Tensor | None) -> torch.Tensor:
    """x + sigmoid(logits) * shared; (T, H), logits (T, 1) -> (T, H) float64."""
    return x.double() + (1.0 if logits is None else logits.double().sigmoid()) * shared.double()

"""Gates in PyTorch's operations."""

from __future__ import annotations

import torch

from octavo.ops.activations import Activations, Unscaled
from octavo.ops.experts.routing import swiglu
from octavo.ops.experts.rules import sigmoid
from octavo.ops.inputs import Inputs
from octavo.ops.norm.cpu import rms_norm

__all__ = ["CpuGates"]


class CpuGates:
    """See `Gates`. Sigmoids are written out: torch.silu and torch.sigmoid round a row's tail otherwise."""

    def swiglu(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `Gates`: (T, 2I) -> (T, I)."""
        return swiglu(gate_up)

    def norm(
        self, x: torch.Tensor, gates: torch.Tensor, weight: torch.Tensor, eps: float, form: type[Activations] = Unscaled
    ) -> Inputs:
        """See `Gates`: (R, heads * D) -> (R, heads * D)."""
        gates = gates.flatten(1, -2).float()
        normed = rms_norm(x.view(gates.shape), weight, eps).float()
        return Inputs((gates / gates.neg().exp_().add_(1.0)).mul_(normed).to(torch.bfloat16).flatten(1))

    def heads(self, x: torch.Tensor, gates: torch.Tensor, form: type[Activations] = Unscaled) -> Inputs:
        """See `Gates`: (R, heads * D) -> (R, heads * D)."""
        return Inputs(x * sigmoid(gates.float()).to(torch.bfloat16).flatten(1))

    def add_share(self, x: torch.Tensor, shared: torch.Tensor, logits: torch.Tensor | None) -> torch.Tensor:
        """See `Gates`: (T, H) -> (T, H)."""
        share = shared.float() if logits is None else shared.float() * sigmoid(logits)
        return (x.float() + share).to(torch.bfloat16)

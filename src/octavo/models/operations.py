"""What a model is computed with: one type per device, chosen once at load."""

from __future__ import annotations

from typing import Protocol

import torch

from octavo.ops.activations import Activations
from octavo.ops.attention.layer import Attention, AttentionShape
from octavo.ops.delta_net import DeltaNet, DeltaShape, DeltaWeights
from octavo.ops.experts import Experts, ExpertWeights, RoutingRule
from octavo.ops.formats import LinearWeight
from octavo.ops.gates.layer import Gates
from octavo.ops.linear.layer import Linear
from octavo.ops.norm.layer import AddNorm


class Operations(Protocol):
    """Binds weights to the layers that compute with them on one kind of device."""

    @property
    def gates(self) -> Gates:
        """What has no weights of its own."""
        ...

    def linear(self, weight: LinearWeight) -> Linear:
        """The linear layer of `weight`."""
        ...

    def experts(self, weights: ExpertWeights, rule: RoutingRule) -> Experts:
        """The expert layer of `weights`, whose experts are chosen by `rule`."""
        ...

    def attention(self, shape: AttentionShape) -> Attention:
        """Attention of `shape`, for all layers of a model that have it."""
        ...

    def delta_net(self, shape: DeltaShape, weights: DeltaWeights) -> DeltaNet:
        """Gated DeltaNet of one layer."""
        ...

    def add_norm(self, weight: torch.Tensor, eps: float, forms: frozenset[type[Activations]]) -> AddNorm:
        """The norm of a sum: weight (H,) bf16 or float32; `forms`: those in which the layers behind it read its rows."""
        ...

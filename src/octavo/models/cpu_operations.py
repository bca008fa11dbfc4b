"""PyTorch's operations on a CPU."""

from __future__ import annotations

import torch

from octavo.ops.activations import Activations
from octavo.ops.attention.cpu_layer import CpuAttention
from octavo.ops.attention.layer import AttentionShape
from octavo.ops.delta_net import DeltaShape, DeltaWeights
from octavo.ops.delta_net.cpu import CpuDeltaNet
from octavo.ops.experts import CpuExperts, Experts, ExpertWeights, RoutingRule
from octavo.ops.formats import LinearWeight
from octavo.ops.gates.cpu import CpuGates
from octavo.ops.linear.cpu import TiledLinear
from octavo.ops.linear.layer import Linear
from octavo.ops.norm.cpu import CpuAddNorm


class CpuOperations:
    """See `Operations`. Every row's bits depend on that row and its request alone."""

    gates = CpuGates()

    def linear(self, weight: LinearWeight) -> Linear:
        """See `Operations`."""
        return TiledLinear(weight)

    def experts(self, weights: ExpertWeights, rule: RoutingRule) -> Experts:
        """See `Operations`."""
        return CpuExperts(weights, rule)

    def attention(self, shape: AttentionShape) -> CpuAttention:
        """See `Operations`."""
        return CpuAttention(shape)

    def delta_net(self, shape: DeltaShape, weights: DeltaWeights) -> CpuDeltaNet:
        """See `Operations`."""
        return CpuDeltaNet(shape, weights)

    def add_norm(self, weight: torch.Tensor, eps: float, forms: frozenset[type[Activations]]) -> CpuAddNorm:
        """See `Operations`."""
        return CpuAddNorm(weight, eps)

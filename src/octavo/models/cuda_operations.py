"""Octavo's own kernels for a whole model on CUDA.

A module of its own: importing it compiles nothing yet, but it needs Triton, which a CPU does not.
"""

from __future__ import annotations

import torch

from octavo.ops.activations import Activations
from octavo.ops.attention.cuda_layer import PagedAttention
from octavo.ops.attention.layer import AttentionShape
from octavo.ops.delta_net import DeltaShape, DeltaWeights
from octavo.ops.delta_net.cuda import KernelDeltaNet
from octavo.ops.experts import Experts, ExpertWeights, RoutingRule
from octavo.ops.experts.cuda import KernelExperts
from octavo.ops.experts.moe import MoeWorkspace, moe_workspace
from octavo.ops.formats import LinearWeight
from octavo.ops.gates.cuda import KernelGates
from octavo.ops.linear.cuda import KernelLinear
from octavo.ops.linear.layer import Linear
from octavo.ops.norm.cuda import CudaAddNorm


class CudaOperations:
    """See `Operations`. A row's bits depend on its request's tokens up to it alone, at any batch up to `max_tokens`.

    The workspace of the experts is allocated with the first layer of a shape, for the worst routing; all layers share it,
    one call at a time, those of a model that is built anew too. So it is with attention's.
    """

    gates = KernelGates()

    def __init__(self, *, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._workspaces: dict[tuple[object, ...], MoeWorkspace] = {}
        self._attentions: dict[AttentionShape, PagedAttention] = {}

    def linear(self, weight: LinearWeight) -> Linear:
        """See `Operations`."""
        return KernelLinear(weight)

    def experts(self, weights: ExpertWeights, rule: RoutingRule) -> Experts:
        """See `Operations`."""
        gate_up, down = weights.gate_up, weights.down
        shape = (type(gate_up), type(down), tuple(down.data.shape), down.data.device, rule.top_k)
        if shape not in self._workspaces:
            self._workspaces[shape] = moe_workspace(self._max_tokens, rule.top_k, gate_up, down)
        return KernelExperts(gate_up, down, rule, workspace=self._workspaces[shape])

    def attention(self, shape: AttentionShape) -> PagedAttention:
        """See `Operations`."""
        return self._attentions.setdefault(shape, PagedAttention(shape))

    def delta_net(self, shape: DeltaShape, weights: DeltaWeights) -> KernelDeltaNet:
        """See `Operations`."""
        return KernelDeltaNet(shape, weights)

    def add_norm(self, weight: torch.Tensor, eps: float, forms: frozenset[type[Activations]]) -> CudaAddNorm:
        """See `Operations`."""
        return CudaAddNorm(weight, eps, forms)

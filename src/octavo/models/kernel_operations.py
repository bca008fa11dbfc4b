"""PyTorch's operations on CUDA, with the expert layer of Octavo's own kernels.

A module of its own: importing it compiles nothing yet, but it needs Triton, which a CPU does not.
"""

from __future__ import annotations

from octavo.kernels.experts import Experts, ExpertWeights
from octavo.kernels.linear import Bf16Weight, Fp8Weight, LinearWeight
from octavo.kernels.moe import MoeWorkspace, moe_workspace
from octavo.kernels.moe.experts import KernelExperts
from octavo.kernels.scaled import ChannelWeights, PlainWeights, Weights
from octavo.models.operations import CudaOperations


class KernelOperations(CudaOperations):
    """Expert layers run at any batch up to `max_tokens`, with the same bits for a row in each.

    The workspace is allocated with the first layer of a shape, for the worst routing, and shared by all of them.
    """

    def __init__(self, *, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._workspaces: dict[tuple[object, ...], MoeWorkspace] = {}

    def experts(self, weights: ExpertWeights, *, top_k: int, renormalize: bool) -> Experts:
        """See `Operations`."""
        gate_up, down = _format(weights.gate_up), _format(weights.down)
        shape = (type(gate_up), type(down), tuple(down.data.shape), down.data.device, top_k)
        if shape not in self._workspaces:
            self._workspaces[shape] = moe_workspace(self._max_tokens, top_k, gate_up, down)
        return KernelExperts(gate_up, down, top_k=top_k, renormalize=renormalize, workspace=self._workspaces[shape])


def _format(weight: LinearWeight) -> Weights:
    """The kernels' name for the same tensors."""
    match weight:
        case Fp8Weight(data, scale):
            return ChannelWeights(data, scale)
        case Bf16Weight(data):
            return PlainWeights(data)

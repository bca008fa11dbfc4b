"""Octavo's own kernels for a whole model on CUDA.

A module of its own: importing it compiles nothing yet, but it needs Triton, which a CPU does not.
"""

from __future__ import annotations

import torch

from octavo.models.forward_batch import ForwardBatch
from octavo.models.operations import HeadNorms
from octavo.ops.attention import Plan
from octavo.ops.attention.cuda import PagedPlan, SplitResults, paged_attention, plan_paged_attention
from octavo.ops.experts import Experts, ExpertWeights
from octavo.ops.experts.cuda import KernelExperts
from octavo.ops.experts.moe import MoeWorkspace, moe_workspace
from octavo.ops.formats import LinearWeight
from octavo.ops.linear.cuda import KernelLinear
from octavo.ops.linear.layer import Linear
from octavo.ops.norm.cuda import cuda_rms_norm
from octavo.ops.prepare_qkv.cuda import prepare_qkv
from octavo.ops.rotary import RotaryTable


class KernelOperations:
    """A row's bits depend on its request's tokens up to it alone, at any batch up to `max_tokens`.

    The workspace of the experts is allocated with the first layer of a shape, for the worst routing, and the room of
    attention with its first call; all layers share them, one call at a time.
    """

    def __init__(self, *, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._workspaces: dict[tuple[object, ...], MoeWorkspace] = {}
        self._split_results: dict[tuple[int, int, torch.device], SplitResults] = {}

    def linear(self, weight: LinearWeight) -> Linear:
        """See `Operations`."""
        return KernelLinear(weight)

    def experts(self, weights: ExpertWeights, *, top_k: int, renormalize: bool) -> Experts:
        """See `Operations`."""
        gate_up, down = weights.gate_up, weights.down
        shape = (type(gate_up), type(down), tuple(down.data.shape), down.data.device, top_k)
        if shape not in self._workspaces:
            self._workspaces[shape] = moe_workspace(self._max_tokens, top_k, gate_up, down)
        return KernelExperts(gate_up, down, top_k=top_k, renormalize=renormalize, workspace=self._workspaces[shape])

    def plan_attention(self, batch: ForwardBatch, *, block_size: int, heads_per_kv_head: int) -> Plan:
        """See `Operations`."""
        return plan_paged_attention(
            batch.block_tables,
            batch.chunk_starts,
            batch.context_lens,
            block_size=block_size,
            heads_per_kv_head=heads_per_kv_head,
        )

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """See `Operations`."""
        return cuda_rms_norm(x, weight, eps)

    def prepare_qkv(
        self, qkv: torch.Tensor, norms: HeadNorms, rows: RotaryTable, cache: torch.Tensor, slot_mapping: torch.Tensor
    ) -> torch.Tensor:
        """See `Operations`."""
        return prepare_qkv(qkv, norms.queries, norms.keys, norms.eps, rows, cache, slot_mapping)

    def attention(self, queries: torch.Tensor, cache: torch.Tensor, plan: Plan) -> torch.Tensor:
        """See `Operations`."""
        assert isinstance(plan, PagedPlan), "plan_attention makes the plan"
        _, heads, width = queries.shape
        shape = (heads, width, queries.device)
        if shape not in self._split_results:
            self._split_results[shape] = SplitResults.allocate(heads, width, queries.device)
        return paged_attention(queries, cache, plan, self._split_results[shape])

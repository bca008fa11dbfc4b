"""A model of PyTorch's own operations on CUDA."""

from __future__ import annotations

import torch

from benchmarks.torch_baseline.attention import attention
from benchmarks.torch_baseline.attention_plan import AttentionPlan, plan_attention
from benchmarks.torch_baseline.experts import CudaExperts
from benchmarks.torch_baseline.linear import torch_linear
from octavo.models.forward_batch import ForwardBatch
from octavo.models.operations import HeadNorms
from octavo.ops.attention import Plan, write_kv
from octavo.ops.experts import Experts, ExpertWeights
from octavo.ops.formats import LinearWeight
from octavo.ops.linear.layer import Linear
from octavo.ops.norm.cpu import rms_norm
from octavo.ops.rotary import RotaryTable, rotary


class CudaOperations:
    """The shapes of products, and so bits, may change with the batch."""

    def linear(self, weight: LinearWeight) -> Linear:
        """See `Operations`."""
        return torch_linear(weight)

    def experts(self, weights: ExpertWeights, *, top_k: int, renormalize: bool) -> Experts:
        """See `Operations`."""
        return CudaExperts(weights, top_k=top_k, renormalize=renormalize)

    def plan_attention(self, batch: ForwardBatch, *, block_size: int, heads_per_kv_head: int) -> Plan:
        """See `Operations`."""
        return plan_attention(
            batch.block_tables,
            batch.chunk_starts,
            batch.context_lens,
            block_size=block_size,
            heads_per_kv_head=heads_per_kv_head,
        )

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """See `Operations`."""
        return rms_norm(x, weight, eps)

    def prepare_qkv(
        self, qkv: torch.Tensor, norms: HeadNorms, rows: RotaryTable, cache: torch.Tensor, slot_mapping: torch.Tensor
    ) -> torch.Tensor:
        """See `Operations`."""
        kv_heads = cache.shape[3]
        queries, keys, values = torch.split(qkv, [qkv.shape[1] - 2 * kv_heads, kv_heads, kv_heads], dim=1)
        keys = rotary(rms_norm(keys, norms.keys, norms.eps), rows)
        write_kv(keys, values, cache, slot_mapping)
        return rotary(rms_norm(queries, norms.queries, norms.eps), rows)

    def attention(self, queries: torch.Tensor, cache: torch.Tensor, plan: Plan) -> torch.Tensor:
        """See `Operations`."""
        assert isinstance(plan, AttentionPlan), "plan_attention makes the plan"
        return attention(queries, cache, plan)

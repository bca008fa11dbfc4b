"""A model of PyTorch's own operations on CUDA."""

from __future__ import annotations

import torch

from benchmarks.torch_baseline.attention import attention
from benchmarks.torch_baseline.attention_plan import TilePlan, plan_attention
from benchmarks.torch_baseline.experts import CudaExperts
from benchmarks.torch_baseline.linear import torch_linear
from octavo.ops.activations import Activations
from octavo.ops.attention import write_kv
from octavo.ops.attention.cache import UNSCALED, KvScales
from octavo.ops.attention.layer import AttentionRows, AttentionShape
from octavo.ops.delta_net import DeltaShape, DeltaWeights
from octavo.ops.delta_net.cpu import CpuDeltaNet
from octavo.ops.experts import Experts, ExpertWeights, RoutingRule
from octavo.ops.formats import LinearWeight
from octavo.ops.gates.cpu import CpuGates
from octavo.ops.linear.layer import Linear
from octavo.ops.norm.cpu import CpuAddNorm, rms_norm
from octavo.ops.prepare_qkv import HeadNorms, WidthNorms, norm_widths, without_gates
from octavo.ops.rotary import rotary


class TorchOperations:
    """The shapes of products, and so bits, may change with the batch."""

    gates = CpuGates()

    def linear(self, weight: LinearWeight) -> Linear:
        """See `Operations`."""
        return torch_linear(weight)

    def experts(self, weights: ExpertWeights, rule: RoutingRule) -> Experts:
        """See `Operations`."""
        return CudaExperts(weights, rule)

    def attention(self, shape: AttentionShape) -> TorchAttention:
        """See `Operations`."""
        return TorchAttention(shape)

    def delta_net(self, shape: DeltaShape, weights: DeltaWeights) -> CpuDeltaNet:
        """See `Operations`."""
        return CpuDeltaNet(shape, weights)

    def add_norm(self, weight: torch.Tensor, eps: float, forms: frozenset[type[Activations]]) -> CpuAddNorm:
        """See `Operations`; PyTorch's operations on any device."""
        return CpuAddNorm(weight, eps)


class TorchAttention:
    """See `Attention`."""

    def __init__(self, shape: AttentionShape) -> None:
        self._shape = shape

    def plan(
        self,
        block_tables: torch.Tensor,
        chunk_starts: tuple[int, ...],
        context_lens: tuple[int, ...],
        *,
        block_size: int,
    ) -> TilePlan:
        """See `Attention`."""
        shared = self._shape.heads // self._shape.kv_heads
        return plan_attention(block_tables, chunk_starts, context_lens, block_size=block_size, heads_per_kv_head=shared)

    def layer(
        self, norms: HeadNorms | WidthNorms | None, scales: KvScales = UNSCALED, *, gated: bool = False
    ) -> TorchAttentionLayer:
        """See `Attention`; the cache is one in bf16."""
        return TorchAttentionLayer(self._shape, norms, gated)


class TorchAttentionLayer:
    """See `AttentionLayer`."""

    def __init__(self, shape: AttentionShape, norms: HeadNorms | WidthNorms | None, gated: bool) -> None:
        self._shape, self._norms, self._gated = shape, norms, gated

    def __call__(self, qkv: torch.Tensor, rows: AttentionRows, cache: torch.Tensor) -> torch.Tensor:
        """See `AttentionLayer`."""
        assert isinstance(rows.plan, TilePlan), "TorchAttention makes the plan"
        shape = self._shape
        qkv, norms = norm_widths(qkv, self._norms, rms_norm)
        heads = qkv.unflatten(1, (-1, shape.head_dim))
        heads = without_gates(heads, shape.heads) if self._gated else heads
        queries, keys, values = torch.split(heads, [shape.heads, shape.kv_heads, shape.kv_heads], dim=1)
        if norms is not None:
            queries, keys = rms_norm(queries, norms.queries, norms.eps), rms_norm(keys, norms.keys, norms.eps)
        write_kv(rotary(keys, rows.angles), values, cache, rows.slot_mapping)
        return attention(rows.select_queries(rotary(queries, rows.angles)), cache, rows.plan).flatten(1)

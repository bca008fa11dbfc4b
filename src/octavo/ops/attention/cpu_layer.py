"""Attention on a CPU as the models call it."""

from __future__ import annotations

import torch

from octavo.ops.attention.cache import UNSCALED, KvScales
from octavo.ops.attention.cpu import CpuAttentionPlan, cpu_attention, plan_cpu_attention
from octavo.ops.attention.layer import AttentionRows, AttentionShape
from octavo.ops.norm.cpu import rms_norm
from octavo.ops.prepare_qkv import HeadNorms, WidthNorms, norm_widths, without_gates
from octavo.ops.prepare_qkv.cpu import cpu_prepare_qkv


class CpuAttention:
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
    ) -> CpuAttentionPlan:
        """See `Attention`."""
        shared = self._shape.heads // self._shape.kv_heads
        return plan_cpu_attention(
            block_tables, chunk_starts, context_lens, block_size=block_size, heads_per_kv_head=shared
        )

    def layer(
        self, norms: HeadNorms | WidthNorms | None, scales: KvScales = UNSCALED, *, gated: bool = False
    ) -> CpuAttentionLayer:
        """See `Attention`."""
        return CpuAttentionLayer(self._shape, norms, scales, gated)


class CpuAttentionLayer:
    """See `AttentionLayer`."""

    def __init__(
        self, shape: AttentionShape, norms: HeadNorms | WidthNorms | None, scales: KvScales, gated: bool
    ) -> None:
        self._shape, self._norms, self._scales, self._gated = shape, norms, scales, gated

    def __call__(self, qkv: torch.Tensor, rows: AttentionRows, cache: torch.Tensor) -> torch.Tensor:
        """See `AttentionLayer`."""
        assert isinstance(rows.plan, CpuAttentionPlan), "CpuAttention makes the plan"
        qkv, norms = norm_widths(qkv, self._norms, rms_norm)
        heads = qkv.unflatten(1, (-1, self._shape.head_dim))
        heads = without_gates(heads, self._shape.heads) if self._gated else heads
        queries = cpu_prepare_qkv(heads, norms, rows.angles, cache, rows.slot_mapping, self._scales)
        rows.plan.wait_for_context()
        return cpu_attention(rows.select_queries(queries), cache, rows.plan, self._scales).flatten(1)

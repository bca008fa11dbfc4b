"""Attention on CUDA as the models call it: Octavo's kernels, and the memory between them."""

from __future__ import annotations

import torch

from octavo.ops.attention.cache import UNSCALED, KvScales
from octavo.ops.attention.cuda import PagedPlan, SplitResults, paged_attention, plan_paged_attention
from octavo.ops.attention.layer import AttentionRows, AttentionShape
from octavo.ops.norm.cuda import cuda_rms_norm
from octavo.ops.prepare_qkv import HeadNorms, WidthNorms, norm_widths
from octavo.ops.prepare_qkv.cuda import prepare_qkv


class PagedAttention:
    """See `Attention`. All layers share the room for split results, which the first call allocates, one call at a time."""

    def __init__(self, shape: AttentionShape) -> None:
        self._shape = shape
        self._split_results: SplitResults | None = None

    def plan(
        self,
        block_tables: torch.Tensor,
        chunk_starts: tuple[int, ...],
        context_lens: tuple[int, ...],
        *,
        block_size: int,
    ) -> PagedPlan:
        """See `Attention`."""
        shared = self._shape.heads // self._shape.kv_heads
        return plan_paged_attention(
            block_tables, chunk_starts, context_lens, block_size=block_size, heads_per_kv_head=shared
        )

    def layer(
        self, norms: HeadNorms | WidthNorms | None, scales: KvScales = UNSCALED, *, gated: bool = False
    ) -> PagedAttentionLayer:
        """See `Attention`."""
        return PagedAttentionLayer(self, norms, scales, gated)

    def prepare(
        self,
        qkv: torch.Tensor,
        norms: HeadNorms | WidthNorms | None,
        rows: AttentionRows,
        cache: torch.Tensor,
        scales: KvScales,
        *,
        gated: bool = False,
    ) -> torch.Tensor:
        """Queries (R, heads, D) of the rows that attend; keys and values of all rows are written to `cache`."""
        qkv, of_heads = norm_widths(qkv, norms, cuda_rms_norm)
        heads = qkv.unflatten(1, (-1, self._shape.head_dim))
        queries = prepare_qkv(heads, of_heads, rows.angles, cache, rows.slot_mapping, scales, gated=gated)
        return rows.select_queries(queries)

    def attend(self, queries: torch.Tensor, cache: torch.Tensor, plan: PagedPlan, scales: KvScales) -> torch.Tensor:
        """`paged_attention` with the room of this shape: queries (R, heads, D) bf16 -> (R, heads, D) bf16, new."""
        if self._split_results is None:
            self._split_results = SplitResults.allocate(self._shape.heads, self._shape.head_dim, queries.device)
        return paged_attention(queries, cache, plan, self._split_results, scales)


class PagedAttentionLayer:
    """See `AttentionLayer`."""

    def __init__(
        self, attention: PagedAttention, norms: HeadNorms | WidthNorms | None, scales: KvScales, gated: bool
    ) -> None:
        self._attention, self._norms, self._scales, self._gated = attention, norms, scales, gated

    def __call__(self, qkv: torch.Tensor, rows: AttentionRows, cache: torch.Tensor) -> torch.Tensor:
        """See `AttentionLayer`."""
        assert isinstance(rows.plan, PagedPlan), "PagedAttention makes the plan"
        queries = self._attention.prepare(qkv, self._norms, rows, cache, self._scales, gated=self._gated)
        return self._attention.attend(queries, cache, rows.plan, self._scales).flatten(1)

"""Attention on a CPU: PyTorch's flash attention in calls whose shapes follow from positions alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from octavo.ops.activations import FP8
from octavo.ops.attention.cache import CACHE_TYPES, UNSCALED, KvScales, all_below
from octavo.ops.attention.layer import AttentionPlan
from octavo.ops.contract import Dims
from octavo.ops.formats import widen

BAND = 64
"""Positions whose queries are given the same keys: all up to the end of their band of 64."""
BLOCK_ROWS = 32
"""Rows of a query block of PyTorch's kernel where a call has fewer than 192; its key blocks begin at multiples of 512."""
CALL_ROWS = 160
"""Most rows of a call (tokens times the query heads that share a KV head)."""
GATHERED_KEYS = 8192
"""Keys of single-token chunks gathered at a time: they stay in the cache."""
FINITE_LIMIT = 2.0**60
"""Queries and keys from here on count as not finite: no product of smaller ones overflows."""


def all_is_written() -> None:
    """Return at once: no other thread writes what this step reads."""


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Several tokens of one request."""

    rows: slice
    """Of the batch."""
    start: int
    """Position of the first."""
    slots: torch.Tensor
    """(L,) int64 cache slots of the context, the last one repeated up to the end of its band."""


@dataclasses.dataclass(frozen=True)
class _Singles:
    """Chunks of one token in the same band."""

    rows: torch.Tensor
    """(n,) int64"""
    slots: torch.Tensor
    """(n * L,) int64, as in `_Chunk`"""
    mask: torch.Tensor
    """(n, 1, 1, L) float32: minus infinity where the last slot is repeated, else 0."""


@dataclasses.dataclass(frozen=True)
class CpuAttentionPlan(AttentionPlan):
    """The chunks of a batch, every row in exactly one."""

    chunks: tuple[_Chunk, ...]
    singles: tuple[_Singles, ...]
    tokens: int
    """Tokens of a call's query tile, a divisor of BAND."""
    causal: torch.Tensor
    """(BAND / tokens, 1, R, longest L) float32: the mask of a band's tiles; a shorter context takes its last columns."""
    wait_for_context: Callable[[], None] = all_is_written
    """Called in every layer after its keys and values are written and before any are read: returns when earlier rows of the
    same requests, computed by other threads, are written too."""


def plan_cpu_attention(
    block_tables: torch.Tensor,
    chunk_starts: tuple[int, ...],
    context_lens: tuple[int, ...],
    *,
    block_size: int,
    heads_per_kv_head: int,
) -> CpuAttentionPlan:
    """Sort the chunks by how they are computed and look up the cache slots of their contexts.

    Args: see `plan_attention`.
    """
    tables = block_tables.numpy()
    starts, ends = np.array(chunk_starts[:-1], dtype=np.int64), np.array(context_lens, dtype=np.int64)
    counts = np.diff(np.array(chunk_starts, dtype=np.int64))
    padded = -(-ends // BAND) * BAND

    def slots(chunks: np.ndarray, width: int) -> torch.Tensor:
        """(n * width,) cache slots of chunks in one band."""
        positions = np.minimum(np.arange(width), ends[chunks, None] - 1)
        blocks = tables[chunks[:, None], positions // block_size].astype(np.int64)
        return torch.from_numpy((blocks * block_size + positions % block_size).reshape(-1))

    several = np.flatnonzero(counts > 1)
    chunks = tuple(
        _Chunk(
            slice(int(starts[i]), int(starts[i] + counts[i])),
            int(ends[i] - counts[i]),
            slots(np.array([i]), int(padded[i])),
        )
        for i in several
    )
    singles = []
    for width in np.unique(padded[counts == 1]).tolist():
        members = np.flatnonzero((counts == 1) & (padded == width))
        each = max(1, GATHERED_KEYS // width)
        for some in (members[i : i + each] for i in range(0, len(members), each)):
            seen = torch.from_numpy(np.arange(width) < ends[some, None])
            mask = torch.where(seen, 0.0, -torch.inf)[:, None, None]
            singles.append(_Singles(torch.from_numpy(starts[some]), slots(some, width), mask))
    tokens = max(1, 1 << min(BAND.bit_length(), (CALL_ROWS // heads_per_kv_head).bit_length()) - 1)
    causal = _causal(tokens, heads_per_kv_head, int(padded[several].max(initial=0)))
    return CpuAttentionPlan(chunks, tuple(singles), tokens, causal)


def _causal(tokens: int, shared: int, width: int) -> torch.Tensor:
    later = torch.ones(BAND, BAND, dtype=torch.bool).triu(1).repeat_interleave(shared, dim=0)
    mask = torch.zeros((BAND // tokens, 1, _blocks(tokens * shared), width))
    if width:
        mask[:, :, : tokens * shared, -BAND:].masked_fill_(later.view(-1, 1, tokens * shared, BAND), -torch.inf)
    return mask


def _blocks(rows: int) -> int:
    return -(-rows // BLOCK_ROWS) * BLOCK_ROWS


def cpu_attention(
    queries: torch.Tensor, cache: torch.Tensor, plan: CpuAttentionPlan, scales: KvScales = UNSCALED
) -> torch.Tensor:
    """`attention` on a CPU, with the same promises.

    A query's row goes through blocks of 32 rows, against the keys up to the end of its band in blocks of 512: shapes
    that its position alone decides. Keys and queries of 2^60 and more count as not finite.

    Args:
        queries: (T, H, D) bf16; read.
        cache: (2, blocks, block size, G, D) bf16 or fp8, written by `write_kv` for these tokens too; read.
        plan: of this batch.
        scales: as keys and values were written.

    Returns:
        (T, H, D) bf16, new.

    Raises:
        KernelContractError: a tensor has another dtype or size.
    """
    dims = Dims()
    dims.check("cache", cache, (2, "blocks", "block size", "G", "D"), dtype=CACHE_TYPES)
    kv_heads, width = cache.shape[3:]
    dims.check("queries", queries, ("T", "H", "D"), dtype=torch.bfloat16)
    if not all_below(queries, FINITE_LIMIT):
        queries = torch.where(queries.abs() < FINITE_LIMIT, queries, torch.nan)
    scales = scales if cache.dtype == FP8 else UNSCALED
    grouped = queries.view(len(queries), kv_heads, queries.shape[1] // kv_heads, width)
    out = torch.empty_like(grouped)
    slots = cache.view(2, -1, kv_heads, width)
    for chunk in plan.chunks:
        out[chunk.rows] = _attend_chunk(grouped[chunk.rows], slots, chunk, plan, scales)
    for singles in plan.singles:
        some = grouped.index_select(0, singles.rows)
        out.index_copy_(0, singles.rows, _attend_singles(some, slots, singles, scales))
    return out.view_as(queries)


def _attend_chunk(
    queries: torch.Tensor, slots: torch.Tensor, chunk: _Chunk, plan: CpuAttentionPlan, scales: KvScales
) -> torch.Tensor:
    """(T, G, H / G, D) bf16 -> the same; tiles of `plan.tokens` positions, a call for each band."""
    count, kv_heads, shared, width = queries.shape
    keys, values, bad = _read(slots, chunk.slots.view(1, -1))
    tokens, used = plan.tokens, plan.tokens * shared
    first, last = chunk.start // tokens, -(-(chunk.start + count) // tokens)
    live = slice(chunk.start - first * tokens, chunk.start - first * tokens + count)
    by_token = queries.new_zeros(((last - first) * tokens, kv_heads, shared, width), dtype=torch.float32)
    by_token[live] = queries
    tiles = by_token.new_zeros((last - first, kv_heads, plan.causal.shape[2], width))
    swapped = (last - first, tokens, kv_heads, shared, width)
    tiles[:, :, :used].view(-1, kv_heads, tokens, shared, width).copy_(by_token.view(swapped).transpose(1, 2))
    mixed = by_token.view(swapped)
    per_band = BAND // tokens
    for band in range(first // per_band, -(-last // per_band)):
        begin, end = max(first, band * per_band), min(last, (band + 1) * per_band)
        seen = (band + 1) * BAND
        mask = plan.causal[begin - band * per_band : end - band * per_band, :, :, plan.causal.shape[3] - seen :]
        some = slice(begin - first, end - first)
        got = _flash(tiles[some], keys[:, :, :seen], values[:, :, :seen], mask, scales)[:, :, :used]
        mixed[some] = got.view(-1, kv_heads, tokens, shared, width).transpose(1, 2)
    out = by_token[live]
    if bad is not None:
        positions = torch.arange(chunk.start, chunk.start + count)
        hit = bad[0].cumsum(-1).index_select(1, positions) > 0
        out.masked_fill_(hit.t()[:, :, None, None], torch.nan)
    return out


def _attend_singles(queries: torch.Tensor, slots: torch.Tensor, singles: _Singles, scales: KvScales) -> torch.Tensor:
    """(n, G, H / G, D) bf16 -> the same."""
    count, kv_heads, shared, width = queries.shape
    keys, values, bad = _read(slots, singles.slots.view(count, -1))
    tiles = queries.new_zeros((count, kv_heads, _blocks(shared), width), dtype=torch.float32)
    tiles[:, :, :shared] = queries
    out = _flash(tiles, keys, values, singles.mask, scales)[:, :, :shared]
    if bad is not None:
        out = out.masked_fill(bad.any(-1)[:, :, None, None], torch.nan)
    return out.to(torch.bfloat16)


def _flash(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scales: KvScales
) -> torch.Tensor:
    """softmax(q k^T / sqrt(D) + mask) v: (n, G, R, D), (n or 1, G, L, D), mask (n, 1, R or 1, L) -> (n, G, R, D).

    PyTorch's CPU kernel by its name: `scaled_dot_product_attention` would fall back to another without a word.
    """
    sizes = (len(queries), -1, -1, -1)
    out: torch.Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        queries, keys.expand(sizes), values.expand(sizes), attn_mask=mask, scale=queries.shape[-1] ** -0.5 * scales.keys
    )[0]
    return out if scales.values == 1 else out.mul_(scales.values)


def _read(slots: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Keys and values (n, G, L, D) float32 of (n, L) slots; which keys (n, G, L) are not finite, None if all are.

    Those, and the values that `write_kv` marked by such a key, are read as zero: rows that do not see them must not
    meet 0 x NaN.
    """
    keys, values = (
        _wide(side, wanted.view(-1)).view(*wanted.shape, *slots.shape[2:]).transpose(1, 2)
        for side in (slots[0], slots[1])
    )
    if all_below(keys, FINITE_LIMIT):
        return keys, values, None
    bad = ~(keys.abs() < FINITE_LIMIT).all(-1)
    return keys.masked_fill(bad[..., None], 0.0), values.masked_fill(bad[..., None], 0.0), bad


def _wide(side: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The numbers or codes of (L,) slots, float32."""
    if side.dtype != FP8:
        return side.index_select(0, wanted).float()
    return widen(side.view(torch.uint8).index_select(0, wanted))

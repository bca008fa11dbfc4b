"""Which query tiles read which KV tiles: made once per step on the host, used by every layer."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from octavo.ops.attention.layer import AttentionPlan

KV_TILE = 128
"""Keys per tile; tile j holds positions 128 j .. 128 j + 127 of a request, whatever the batch."""
QUERY_ROWS = 16
"""Rows (tokens times the query heads that share a KV head) per query tile, if heads are no more."""


@dataclasses.dataclass(frozen=True)
class KVStep:
    """One KV tile position, for the query tiles that see it: those from `first` on."""

    first: int
    masked: int
    """Query tiles first .. masked - 1 see only part of the KV tile."""
    slots: torch.Tensor
    """(n * KV_TILE,) int64 cache slots, n = 1 where all query tiles are of one chunk; 0 past the context."""
    hidden: torch.Tensor
    """(masked - first, tokens * heads_per_kv_head, KV_TILE) bool: position of key > position of query."""


@dataclasses.dataclass(frozen=True)
class TileGroup:
    """Query tiles of equal height: of one chunk each, or all of one long chunk."""

    rows: torch.Tensor
    """(N * tokens,) int64 batch rows of the queries; the last one of a chunk is repeated to fill its tile."""
    num_tiles: int
    tokens: int
    """Tokens per tile."""
    live: torch.Tensor
    """(L,) int64 which of the N * tokens queries are not repetitions."""
    live_rows: torch.Tensor
    """(L,) int64 their batch rows."""
    steps: tuple[KVStep, ...]


@dataclasses.dataclass(frozen=True)
class TilePlan(AttentionPlan):
    """All tile groups of a batch. Every row of the batch is live in exactly one of them."""

    groups: tuple[TileGroup, ...]
    tile_rows: int
    """Height of the query tiles in every product."""


def plan_attention(
    block_tables: torch.Tensor,
    chunk_starts: tuple[int, ...],
    context_lens: tuple[int, ...],
    *,
    block_size: int,
    heads_per_kv_head: int,
) -> TilePlan:
    """Cut the chunks into query tiles of a fixed height and their contexts into KV tiles at fixed positions.

    Chunks of one token form one group, other chunks of one tile another, and each longer chunk its own.

    Args:
        block_tables: (S, W) int32; -1 past a request's last block.
        chunk_starts: (S + 1) rows of the batch; chunks are not empty.
        context_lens: (S) tokens up to and including the chunk.
        block_size: tokens per block.
        heads_per_kv_head: query heads that share a KV head.

    Returns:
        The plan, its tensors on the device of `block_tables`.
    """
    tile_tokens = max(1, QUERY_ROWS // heads_per_kv_head)
    tile_rows = -(-tile_tokens * heads_per_kv_head // 16) * 16
    starts, ends = np.array(chunk_starts[:-1], dtype=np.int64), np.array(context_lens, dtype=np.int64)
    counts = np.diff(np.array(chunk_starts, dtype=np.int64))
    order = np.argsort(ends, kind="stable")
    single = order[counts[order] == 1]
    short = order[(counts[order] > 1) & (counts[order] <= tile_tokens)]
    long = order[counts[order] > tile_tokens]
    tables = _Tables(block_tables, block_size, heads_per_kv_head)
    groups = [
        _group(chunks, starts[chunks], counts[chunks], ends[chunks], tokens, tables)
        for chunks, tokens in ((single, 1), (short, tile_tokens))
        if len(chunks)
    ]
    for chunk in long:
        offsets = np.arange(0, counts[chunk], tile_tokens)
        sizes = np.minimum(tile_tokens, counts[chunk] - offsets)
        last = ends[chunk] - counts[chunk] + offsets + sizes
        groups.append(_group(np.array([chunk]), starts[chunk] + offsets, sizes, last, tile_tokens, tables))
    return TilePlan(tuple(groups), tile_rows)


@dataclasses.dataclass(frozen=True)
class _Tables:
    blocks: torch.Tensor
    block_size: int
    heads_per_kv_head: int

    def slots(self, chunks: torch.Tensor, contexts: torch.Tensor, tile: int) -> torch.Tensor:
        """(n * KV_TILE,) cache slots of KV tile `tile` of `chunks` (n,); 0 past `contexts` (n,)."""
        positions = torch.arange(tile * KV_TILE, (tile + 1) * KV_TILE, device=self.blocks.device)
        columns = (positions // self.block_size).clamp_(max=self.blocks.shape[1] - 1)
        blocks = self.blocks.index_select(0, chunks).index_select(1, columns).long()
        inside = (positions < contexts[:, None]) & (blocks >= 0)
        return torch.where(inside, blocks * self.block_size + positions % self.block_size, 0).view(-1)


def _group(
    chunks: np.ndarray, starts: np.ndarray, sizes: np.ndarray, ends: np.ndarray, tokens: int, tables: _Tables
) -> TileGroup:
    """Tiles of `sizes` tokens from batch rows `starts`, the last at position `ends` - 1 (ascending).

    `chunks` has one entry per tile, or one for all.
    """
    device = tables.blocks.device
    index = np.minimum(np.arange(tokens), sizes[:, None] - 1)
    rows = (starts[:, None] + index).reshape(-1)
    positions = (ends - sizes)[:, None] + index
    live = np.flatnonzero((np.arange(tokens) < sizes[:, None]).reshape(-1))
    on_device = torch.from_numpy(positions).to(device).repeat_interleave(tables.heads_per_kv_head, dim=1)
    chunk_ids, contexts = torch.from_numpy(chunks).to(device), torch.from_numpy(ends).to(device)
    steps = []
    for tile in range(-(-int(ends[-1]) // KV_TILE)):
        begin, end = tile * KV_TILE, (tile + 1) * KV_TILE
        first = int(np.searchsorted(ends, begin, side="right"))
        partial = np.flatnonzero(positions[:, 0] < end - 1)
        masked = max(first, int(partial[-1]) + 1 if len(partial) else 0)
        keys = torch.arange(begin, end, device=device)
        shared = len(chunks) == 1
        slots = tables.slots(
            chunk_ids if shared else chunk_ids[first:], contexts[-1:] if shared else contexts[first:], tile
        )
        hidden = keys > on_device[first:masked, :, None]
        steps.append(KVStep(first, masked, slots, hidden))
    return TileGroup(
        rows=torch.from_numpy(rows).to(device),
        num_tiles=len(starts),
        tokens=tokens,
        live=torch.from_numpy(live).to(device),
        live_rows=torch.from_numpy(rows[live]).to(device),
        steps=tuple(steps),
    )

"""Which programs attend to what: made once per step on the host, used by every layer."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from octavo.ops.attention.layer import AttentionPlan
from octavo.ops.contract import INDEX_LIMIT, check_range
from octavo.ops.upload import upload

ROWS = 64
"""Rows of a query tile (tokens times the query heads that share a KV head): what one warp group multiplies at a time."""
FEW_ROWS = 16
"""Of a query tile for which keys are the tall side of a product: the fewest that its narrow side takes of bf16 in Triton."""
KV_TILE = 64
"""Keys per tile; tile j holds positions 64 j .. 64 j + 63 of a request, whatever the batch."""
SPLIT = 512
"""Keys between two merges, at the same positions of every request: part of the bits, not a choice of the batch."""
FEW_TILES = 32
"""A chunk of no more tiles does not fill the device: its splits run side by side."""
MAX_SPLIT_RESULTS = 4096
"""Rows times splits that are kept between two kernels; chunks past that run their splits one after the other."""


@dataclasses.dataclass(frozen=True)
class PagedPlan(AttentionPlan):
    """The query tiles of a batch. Every row of a chunk is in exactly one tile."""

    tables: torch.Tensor
    """(S, W) int32 KV blocks of each chunk's request."""
    work: torch.Tensor
    """(N, 7) int32: chunk, first row, tokens, position of the first, first split, end of splits, and the split result of the
    first token, or -1 where the splits are all of the context. The longest come first."""
    small_work: torch.Tensor
    """(M, 7) int32: the same of tiles of no more than `FEW_ROWS` rows."""
    merges: torch.Tensor
    """(F, 4) int32, one for each row in splits: row, its first split result, distance to the next, how many."""
    num_split_results: int
    rows: int
    """Of the batch: T."""
    block_size: int
    shared: int
    """Query heads per KV head."""
    lines_in_use: torch.Tensor | None = None
    """(3,) int32: how many first lines of `work`, `small_work` and `merges` there are; None: all."""

    def programs(self, items: int, resident: int) -> int:
        """One for each item; or, where the device may find fewer, as many as run at a time."""
        return items if self.lines_in_use is None else min(items, resident)


def plan_paged_attention(
    block_tables: torch.Tensor,
    chunk_starts: tuple[int, ...],
    context_lens: tuple[int, ...],
    *,
    block_size: int,
    heads_per_kv_head: int,
    max_split_results: int = MAX_SPLIT_RESULTS,
) -> PagedPlan:
    """Cut the chunks into query tiles, and the contexts of short chunks into splits that run side by side.

    Args:
        block_tables: (S, W) int32; -1 past a request's last block.
        chunk_starts: (S + 1) rows of the batch; chunks are not empty.
        context_lens: (S) tokens up to and including the chunk.
        block_size: tokens per block.
        heads_per_kv_head: query heads that share a KV head, at most 64.
        max_split_results: rows times splits that `SplitResults` has room for; decides speed, not bits.

    Returns:
        The plan, its tensors on the device of `block_tables`.

    Raises:
        KernelContractError: too many heads per KV head, or too many rows.
    """
    check_range("heads_per_kv_head", heads_per_kv_head, 1, ROWS, "one token's heads must fit one query tile")
    check_range("chunk_starts[-1]", chunk_starts[-1], 0, INDEX_LIMIT // ROWS, "pass fewer tokens in one call")
    contexts = np.array(context_lens, dtype=np.int64)
    if tuple(chunk_starts) == tuple(range(len(contexts) + 1)) and contexts.max(initial=0) <= SPLIT:
        work, merges, num_split_results = _short_decodes(contexts), np.zeros((0, 4), dtype=np.int64), 0
    else:
        tiles = _tiles(np.array(chunk_starts, dtype=np.int64), contexts, ROWS // heads_per_kv_head)
        work, merges, num_split_results = _spread(tiles, max_split_results)
    work = work[np.argsort((work[:, 4] - work[:, 5]) * SPLIT - work[:, 3], kind="stable")].astype(np.int32)
    small = work[:, 2] * heads_per_kv_head <= FEW_ROWS
    return PagedPlan(
        tables=block_tables,
        work=upload(torch.from_numpy(work[~small]), block_tables.device),
        small_work=upload(torch.from_numpy(work[small]), block_tables.device),
        merges=upload(torch.from_numpy(merges.astype(np.int32)), block_tables.device),
        num_split_results=num_split_results,
        rows=chunk_starts[-1],
        block_size=block_size,
        shared=heads_per_kv_head,
    )


def _short_decodes(contexts: np.ndarray) -> np.ndarray:
    """What `_tiles` and `_spread` make of chunks of one row whose contexts are one split each, in a fourth of their time."""
    work = np.zeros((len(contexts), 7), dtype=np.int64)
    work[:, 0] = work[:, 1] = np.arange(len(contexts))
    work[:, 2] = work[:, 5] = 1
    work[:, 3] = contexts - 1
    work[:, 6] = -1
    return work


def _tiles(chunk_starts: np.ndarray, ends: np.ndarray, tokens: int) -> np.ndarray:
    """(N, 4) int64: chunk, first row, tokens, position of the first."""
    counts = np.diff(chunk_starts)
    per_chunk = -(-counts // tokens)
    chunk = np.repeat(np.arange(len(counts)), per_chunk)
    offset = (np.arange(len(chunk)) - np.repeat(np.cumsum(per_chunk) - per_chunk, per_chunk)) * tokens
    size = np.minimum(tokens, counts[chunk] - offset)
    return np.stack((chunk, chunk_starts[chunk] + offset, size, (ends - counts)[chunk] + offset), axis=1)


def _spread(tiles: np.ndarray, max_split_results: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Work (N, 7), merges (F, 4) and the number of split results; chunks of few tiles are spread over programs, short ones first."""
    chunk, _, tokens, position = tiles.T
    splits = -(-(position + tokens) // SPLIT)
    room = np.bincount(chunk, weights=splits * tokens, minlength=1).astype(np.int64)
    shortest = np.argsort(room, kind="stable")
    fits = np.empty(len(room), dtype=bool)
    fits[shortest] = np.cumsum(room[shortest]) <= max_split_results
    apart = (splits > 1) & (np.bincount(chunk, minlength=1) <= FEW_TILES)[chunk] & fits[chunk]
    whole, cut, parts = tiles[~apart], tiles[apart], splits[apart]
    ones = np.ones((len(whole), 1), dtype=np.int64)
    together = np.hstack((whole, 0 * ones, splits[~apart, None], -ones))
    needed = parts * cut[:, 2]
    first = np.cumsum(needed) - needed
    tile = np.repeat(np.arange(len(cut)), parts)
    split = np.arange(len(tile)) - np.repeat(np.cumsum(parts) - parts, parts)
    split_result = first[tile] + split * cut[tile, 2]
    alone = np.hstack((cut[tile], split[:, None], split[:, None] + 1, split_result[:, None]))
    at = np.repeat(np.arange(len(cut)), cut[:, 2])
    token = np.arange(len(at)) - np.repeat(np.cumsum(cut[:, 2]) - cut[:, 2], cut[:, 2])
    merges = np.stack((cut[at, 1] + token, first[at] + token, cut[at, 2], parts[at]), axis=1)
    return np.vstack((together, alone)), merges, int(needed.sum())

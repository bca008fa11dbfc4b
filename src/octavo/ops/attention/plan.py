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
LINE_ROWS = 2 * ROWS
"""Of a line of work: two tiles, which one program may attend for with the same keys."""
FEW_ROWS = 16
"""Of a query tile for which keys are the tall side of a product: the fewest that its narrow side takes of bf16 in Triton."""
KV_TILE = 64
"""Keys per tile; tile j holds positions 64 j .. 64 j + 63 of a request, whatever the batch."""
SPLIT = 512
"""Keys between two merges, at the same positions of every request: part of the bits, not a choice of the batch."""
WORK = 8
"""Numbers of a line of work."""
FEW_LINES = 16
"""A chunk of no more lines does not fill the device: its splits run side by side."""
MAX_SPLIT_RESULTS = 4096
"""Rows times splits that are kept between two kernels; chunks past that run their splits one after the other."""


@dataclasses.dataclass(frozen=True)
class PagedPlan(AttentionPlan):
    """The lines of work of a batch, each one or two query tiles. Every row of a chunk is in exactly one line, or in one for each split."""

    tables: torch.Tensor
    """(S, W) int32 KV blocks of each chunk's request."""
    work: torch.Tensor
    """(N, WORK) int32: chunk, first row, tokens, position of the first, first split, end of splits, the split result of the
    first token, or -1 where the splits are all of the context, and the context of the chunk. The longest come first."""
    small_work: torch.Tensor
    """(M, WORK) int32: the same of lines of no more than `FEW_ROWS` rows."""
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
    """Cut the chunks into lines of work, and the contexts of short chunks into splits that run side by side.

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
        tokens = LINE_ROWS // ROWS * (ROWS // heads_per_kv_head)
        lines = _lines(np.array(chunk_starts, dtype=np.int64), contexts, tokens)
        work, merges, num_split_results = _spread(lines, max_split_results)
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
    """What `_lines` and `_spread` make of chunks of one row whose contexts are one split each, in a fourth of their time."""
    work = np.zeros((len(contexts), WORK), dtype=np.int64)
    work[:, 0] = work[:, 1] = np.arange(len(contexts))
    work[:, 2] = work[:, 5] = 1
    work[:, 3] = contexts - 1
    work[:, 6] = -1
    work[:, 7] = contexts
    return work


def _lines(chunk_starts: np.ndarray, ends: np.ndarray, tokens: int) -> np.ndarray:
    """(N, 5) int64: chunk, first row, tokens, position of the first, context of the chunk."""
    counts = np.diff(chunk_starts)
    per_chunk = -(-counts // tokens)
    chunk = np.repeat(np.arange(len(counts)), per_chunk)
    offset = (np.arange(len(chunk)) - np.repeat(np.cumsum(per_chunk) - per_chunk, per_chunk)) * tokens
    size = np.minimum(tokens, counts[chunk] - offset)
    return np.stack((chunk, chunk_starts[chunk] + offset, size, (ends - counts)[chunk] + offset, ends[chunk]), axis=1)


def _spread(lines: np.ndarray, max_split_results: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Work (N, WORK), merges (F, 4) and the number of split results; chunks of few lines are spread over programs, short ones first."""
    chunk, _, tokens, position, _ = lines.T
    splits = -(-(position + tokens) // SPLIT)
    room = np.bincount(chunk, weights=splits * tokens, minlength=1).astype(np.int64)
    shortest = np.argsort(room, kind="stable")
    fits = np.empty(len(room), dtype=bool)
    fits[shortest] = np.cumsum(room[shortest]) <= max_split_results
    apart = (splits > 1) & (np.bincount(chunk, minlength=1) <= FEW_LINES)[chunk] & fits[chunk]
    whole, cut, parts = lines[~apart], lines[apart], splits[apart]
    ones = np.ones((len(whole), 1), dtype=np.int64)
    together = np.hstack((whole[:, :4], 0 * ones, splits[~apart, None], -ones, whole[:, 4:]))
    needed = parts * cut[:, 2]
    first = np.cumsum(needed) - needed
    line = np.repeat(np.arange(len(cut)), parts)
    split = np.arange(len(line)) - np.repeat(np.cumsum(parts) - parts, parts)
    split_result = first[line] + split * cut[line, 2]
    alone = np.hstack((cut[line, :4], split[:, None], split[:, None] + 1, split_result[:, None], cut[line, 4:]))
    at = np.repeat(np.arange(len(cut)), cut[:, 2])
    token = np.arange(len(at)) - np.repeat(np.cumsum(cut[:, 2]) - cut[:, 2], cut[:, 2])
    merges = np.stack((cut[at, 1] + token, first[at] + token, cut[at, 2], parts[at]), axis=1)
    return np.vstack((together, alone)), merges, int(needed.sum())

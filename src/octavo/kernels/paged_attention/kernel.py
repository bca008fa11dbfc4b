"""Online softmax over tiles of 64 keys at fixed positions, folded together every `SPLIT` keys.

A row's arithmetic is a function of its position alone. Its products come from tiles of one shape, in which rows are
independent; the tiles of a split are summed in order; the splits of a row are folded in order by one function, whether one
program goes through all of them or each has its own and the last to end folds them all. Multiply-adds are written out, so that no compiler fuses them in one
place and not in another. What a row does not see adds exact zeros to its sums and multiplies them by exactly one.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.kernels.device import follow, live_rows


@triton.jit
def _reference(best):
    """What exponents are taken relative to: `best`, or 0 for rows that have seen nothing, as their scores are minus infinity."""
    return tl.where(best == float("-inf"), 0.0, best)


@triton.jit
def _fold(best, total, mixed, split_best, split_total, split_mixed, scale):
    """Both halves of a softmax relative to the larger maximum: (R,), (R,), (R, D) and the same of a split."""
    highest = tl.maximum(best, split_best)
    reference = _reference(highest)
    before = tl.exp2((best - reference) * scale)
    now = tl.exp2((split_best - reference) * scale)
    total = tl.fma(total, before, split_total * now)
    kept = tl.broadcast_to(before[:, None], mixed.shape)
    return highest, total, tl.fma(mixed, kept, split_mixed * now[:, None])


@triton.jit
def _arrive(counter):
    """How many programs came to `counter` before this one; what they wrote before is seen after."""
    # all threads have written before one of them says so
    tl.debug_barrier()
    return tl.atomic_add(counter, 1, sem="acq_rel")


@triton.jit
def _fold_all(
    partial_stats, partial_mixed, first, step, count, heads, head, token, column, mask, scale,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    """The rows (ROWS, HEAD) of a query tile from its `count` splits, in order: the sum (ROWS,) and the weighted values."""
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, HEAD), tl.float32)
    for index in range(count):
        at = (first + index * step + token) * heads + head
        split_best = tl.load(partial_stats + at * 2, mask=mask, other=0.0)
        split_total = tl.load(partial_stats + at * 2 + 1, mask=mask, other=1.0)
        inside = mask[:, None] & (column < WIDTH)[None, :]
        split_mixed = tl.load(partial_mixed + at[:, None] * WIDTH + column[None, :], mask=inside, other=0.0)
        best, total, mixed = _fold(best, total, mixed, split_best, split_total, split_mixed, scale)
    return total, mixed


@triton.jit
def _attend(
    item, queries, cache, tables, work, out, partial_stats, partial_mixed, arrived,
    rows, tables_rows, columns, blocks, num_partials, kv_heads, side_stride, scale,
    SHARED: tl.constexpr, WIDTH: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr, HEAD: tl.constexpr, KV_TILE: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """One query tile, one KV head, some splits of its context: `item` is the piece of work times kv_heads plus the head.

    A tile's row is (token, query head of the KV head). The result goes to `out`, or unfinished to the partials, from which
    the last program of the tile and KV head makes it.
    """
    heads = kv_heads * SHARED
    row = tl.arange(0, ROWS)
    token = row // SHARED
    column = tl.arange(0, HEAD)
    inside = column < WIDTH
    slot_stride = kv_heads * WIDTH
    offset = tl.arange(0, KV_TILE)
    entry = work + (item // kv_heads).to(tl.int64) * 7
    group = item % kv_heads
    chunk = tl.load(entry)
    first_row = tl.load(entry + 1)
    tokens = tl.load(entry + 2)
    first_position = tl.load(entry + 3)
    first_split = tl.load(entry + 4)
    end_split = tl.load(entry + 5)
    partial = tl.load(entry + 6)
    sound = (chunk >= 0) & (chunk < tables_rows) & (first_row >= 0) & (first_row < rows)
    sound = sound & (first_position >= 0) & (first_split >= 0)
    if sound:
        live_row = (token < tokens) & (first_row + token < rows)
        position = first_position + token
        context = first_position + tokens
        head = group * SHARED + row % SHARED
        at = ((first_row + token).to(tl.int64) * heads + head)[:, None] * WIDTH + column[None, :]
        mask = live_row[:, None] & inside[None, :]
        q = tl.load(queries + at, mask=mask, other=0.0)

        table = tables + chunk.to(tl.int64) * columns
        keys = cache + group * WIDTH + column
        best = tl.full((ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        mixed = tl.zeros((ROWS, HEAD), tl.float32)
        lost = tl.zeros((KV_TILE,), tl.int32)
        for split in range(first_split, end_split):
            tile_best = tl.full((ROWS,), float("-inf"), tl.float32)
            tile_total = tl.zeros((ROWS,), tl.float32)
            tile_mixed = tl.zeros((ROWS, HEAD), tl.float32)
            end = tl.minimum((split + 1) * SPLIT, context)
            for start in range(split * SPLIT, end, KV_TILE):
                key = start + offset
                place = key // BLOCK_SIZE
                block = tl.load(table + place, mask=(key < context) & (place < columns), other=-1)
                known = (block >= 0) & (block < blocks)
                lost |= ((key < context) & (known == 0)).to(tl.int32)
                slot = block.to(tl.int64) * BLOCK_SIZE + key % BLOCK_SIZE
                key_at = keys[None, :] + slot[:, None] * slot_stride
                read = known[:, None] & inside[None, :]
                k = tl.load(key_at, mask=read, other=0.0)
                v = tl.load(key_at + side_stride, mask=read, other=0.0)
                scores = tl.dot(q, tl.trans(k))
                scores = tl.where(key[None, :] <= position[:, None], scores, float("-inf"))
                highest = tl.maximum(tile_best, tl.max(scores, 1))
                reference = _reference(highest)
                level = tl.broadcast_to((-reference * scale)[:, None], scores.shape)
                weights = tl.exp2(tl.fma(scores, tl.full(scores.shape, scale, tl.float32), level))
                shrink = tl.exp2((tile_best - reference) * scale)
                tile_total = tl.fma(tile_total, shrink, tl.sum(weights, 1))
                tile_mixed = tl.dot(weights.to(tl.bfloat16), v, tile_mixed * shrink[:, None])
                tile_best = highest
            best, total, mixed = _fold(best, total, mixed, tile_best, tile_total, tile_mixed, scale)
        splits = tl.cdiv(context, SPLIT)
        first = partial - first_split.to(tl.int64) * tokens
        fits = (first >= 0) & (first + splits.to(tl.int64) * tokens <= num_partials) & (first_split < splits)
        apart = (partial >= 0) & fits
        # a context without its blocks, or a split without its room, is none: better NaN than numbers made of less
        total = tl.where((tl.max(lost, 0) > 0) | ((partial >= 0) & (fits == 0)), float("nan"), total)
        finished = apart == 0
        if apart:
            kept = (partial + token).to(tl.int64) * heads + head
            stat = partial_stats + kept * 2
            tl.store(stat, best, mask=live_row)
            tl.store(stat + 1, total, mask=live_row)
            tl.store(partial_mixed + kept[:, None] * WIDTH + column[None, :], mixed, mask=mask)
            counter = arrived + first * kv_heads + group
            finished = _arrive(counter) == splits - 1
            if finished:
                tl.store(counter, 0)
                total, mixed = _fold_all(
                    partial_stats, partial_mixed, first, tokens, splits, heads, head, token, column, live_row, scale,
                    WIDTH, ROWS, HEAD,
                )  # fmt: skip
        if finished:
            share = tl.div_rn(mixed, tl.broadcast_to(total[:, None], mixed.shape))
            tl.store(out + at, share.to(tl.bfloat16), mask=mask)


@triton.jit(do_not_specialize=["rows", "tables_rows", "columns", "blocks", "num_partials", "pieces"])
def attend_kernel(
    queries, cache, tables, work, live, out, partial_stats, partial_mixed, arrived,
    rows, tables_rows, columns, blocks, num_partials, pieces, kv_heads, side_stride, scale,
    SHARED: tl.constexpr, WIDTH: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr, HEAD: tl.constexpr, KV_TILE: tl.constexpr, SPLIT: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (pieces of work x kv_heads,); or, where only device memory says how many pieces there are, any.

    The loop of the second kind costs 6 to 8 % of the first's time on an H200.
    """
    follow(PDL)
    if live is None:
        _attend(
            tl.program_id(0), queries, cache, tables, work, out, partial_stats, partial_mixed, arrived,
            rows, tables_rows, columns, blocks, num_partials, kv_heads, side_stride, scale,
            SHARED, WIDTH, BLOCK_SIZE, ROWS, HEAD, KV_TILE, SPLIT,
        )  # fmt: skip
    else:
        for item in range(tl.program_id(0), live_rows(live, pieces) * kv_heads, tl.num_programs(0)):
            _attend(
                item, queries, cache, tables, work, out, partial_stats, partial_mixed, arrived,
                rows, tables_rows, columns, blocks, num_partials, kv_heads, side_stride, scale,
                SHARED, WIDTH, BLOCK_SIZE, ROWS, HEAD, KV_TILE, SPLIT,
            )  # fmt: skip

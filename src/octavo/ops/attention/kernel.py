"""Online softmax over tiles of 64 keys at fixed positions, folded together every `SPLIT` keys.

A row's arithmetic is a function of its position alone. Its products come from tiles of one shape, in which rows are
independent; the tiles of a split are summed in order; the splits of a row are folded in order by one function, whether one
program goes through all of them or each has its own. Multiply-adds are written out, so that no compiler fuses them in one
place and not in another. What a row does not see adds exact zeros to its sums and multiplies them by exactly one.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import follow, live_rows


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
def _attend(
    item, queries, cache, tables, work, out, partial_stats, partial_mixed,
    rows, tables_rows, columns, blocks, num_partials, kv_heads, side_stride, scale,
    SHARED: tl.constexpr, WIDTH: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr, HEAD: tl.constexpr, KV_TILE: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """One query tile, one KV head, some splits of its context: `item` is the piece of work times kv_heads plus the head.

    A tile's row is (token, query head of the KV head). The result goes to `out`, or unfinished to the partials.
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
        # a context without its blocks is no context: better NaN than numbers made of less
        total = tl.where(tl.max(lost, 0) > 0, float("nan"), total)

        if partial < 0:
            tl.store(
                out + at, tl.div_rn(mixed, tl.broadcast_to(total[:, None], mixed.shape)).to(tl.bfloat16), mask=mask
            )
        else:
            kept = partial.to(tl.int64) + token
            live_row &= kept < num_partials
            stat = partial_stats + (kept * heads + head) * 2
            tl.store(stat, best, mask=live_row)
            tl.store(stat + 1, total, mask=live_row)
            spot = (kept * heads + head)[:, None] * WIDTH + column[None, :]
            tl.store(partial_mixed + spot, mixed, mask=live_row[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["rows", "tables_rows", "columns", "blocks", "num_partials", "pieces"])
def attend_kernel(
    queries, cache, tables, work, live, out, partial_stats, partial_mixed,
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
            tl.program_id(0), queries, cache, tables, work, out, partial_stats, partial_mixed,
            rows, tables_rows, columns, blocks, num_partials, kv_heads, side_stride, scale,
            SHARED, WIDTH, BLOCK_SIZE, ROWS, HEAD, KV_TILE, SPLIT,
        )  # fmt: skip
    else:
        for item in range(tl.program_id(0), live_rows(live, pieces) * kv_heads, tl.num_programs(0)):
            _attend(
                item, queries, cache, tables, work, out, partial_stats, partial_mixed,
                rows, tables_rows, columns, blocks, num_partials, kv_heads, side_stride, scale,
                SHARED, WIDTH, BLOCK_SIZE, ROWS, HEAD, KV_TILE, SPLIT,
            )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "num_partials", "lines"])
def fold_kernel(
    partial_stats, partial_mixed, folds, live, out, rows, num_partials, lines, heads, scale,
    WIDTH: tl.constexpr, HEAD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Any grid: each (line of `folds`, head) is one program's: the splits of one row and head in order."""
    follow(PDL)
    column = tl.arange(0, HEAD)
    inside = (column < WIDTH)[None, :]
    one = tl.arange(0, 1)
    for item in range(tl.program_id(0), live_rows(live, lines) * heads, tl.num_programs(0)):
        entry = folds + (item // heads).to(tl.int64) * 4
        head = item % heads
        row = tl.load(entry)
        first = tl.load(entry + 1)
        step = tl.load(entry + 2)
        count = tl.load(entry + 3)
        if (row >= 0) & (row < rows) & (first >= 0):
            best = tl.full((1,), float("-inf"), tl.float32)
            total = tl.zeros((1,), tl.float32)
            mixed = tl.zeros((1, HEAD), tl.float32)
            for index in range(count):
                slot = first.to(tl.int64) + index * step.to(tl.int64)
                at = slot * heads + head + one
                known = (slot + one >= 0) & (slot + one < num_partials)
                split_best = tl.load(partial_stats + at * 2, mask=known, other=float("nan"))
                split_total = tl.load(partial_stats + at * 2 + 1, mask=known, other=float("nan"))
                split_mixed = tl.load(
                    partial_mixed + at[:, None] * WIDTH + column[None, :], mask=known[:, None] & inside, other=0.0
                )
                best, total, mixed = _fold(best, total, mixed, split_best, split_total, split_mixed, scale)
            out_at = (row.to(tl.int64) * heads + head) * WIDTH + column[None, :]
            share = tl.div_rn(mixed, tl.broadcast_to(total[:, None], mixed.shape))
            tl.store(out + out_at, share.to(tl.bfloat16), mask=inside)

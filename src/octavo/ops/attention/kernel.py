"""Online softmax over tiles of keys at fixed positions, merged every `SPLIT` keys.

A row's arithmetic is a function of its position alone. Its products come from tiles of one shape, in which rows are
independent; the tiles of a split are summed in order; the splits of a row are merged in order by one function, whether one
program goes through all of them or each has its own. Multiply-adds are written out, so that no compiler fuses them in one
place and not in another. What a row does not see adds exact zeros to its sums and multiplies them by exactly one.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.attention.plan import WORK
from octavo.ops.device import launch_next_early, load_rows_in_use, wait_for_previous

LINE = tl.constexpr(WORK)
"""Numbers of a line of work."""
ONES_TALL = tl.constexpr(16)
"""Rows of ones that sum weights where keys are the tall side. One is read."""
ONES_WIDE = tl.constexpr(8)
"""Columns of ones where rows are the tall side. One is read.

Of as few, Triton takes the product of single warps, in both kernels, and keeps the ones in registers. A warp group's would take 2 KiB of
shared memory, with which three tiles of 64 keys of 128 numbers leave room for one program on a multiprocessor, and without for two.
"""


@triton.jit
def _reference(row_max):
    """What exponents are taken relative to: `row_max`, or 0 for rows that have seen nothing, as their scores are minus infinity."""
    return tl.where(row_max == float("-inf"), 0.0, row_max)


@triton.jit
def _share(total, v_scale):
    """v_scale / total (R,) f32, None for 1: one division a row, where one for each number of it would be a third of the code."""
    inverse = tl.div_rn(tl.full(total.shape, 1.0, tl.float32), total)
    return inverse if v_scale is None else inverse * v_scale


@triton.jit
def _of_rows(x, KEYS_TALL: tl.constexpr):
    """x (R,) against a tile: (R, 1), or (1, R) where keys are the tall side."""
    return x[None, :] if KEYS_TALL else x[:, None]


@triton.jit
def _of_columns(x, KEYS_TALL: tl.constexpr):
    """x (C,) of keys or of columns of a head against a tile: (1, C), or (C, 1) where keys are the tall side."""
    return x[:, None] if KEYS_TALL else x[None, :]


@triton.jit
def _merge(row_max, total, acc, split_row_max, split_total, split_acc, scale, KEYS_TALL: tl.constexpr):
    """Both halves of a softmax relative to the larger maximum: (R,), (R,), (R, D) and the same of a split."""
    highest = tl.maximum(row_max, split_row_max)
    reference = _reference(highest)
    before = tl.exp2((row_max - reference) * scale)
    now = tl.exp2((split_row_max - reference) * scale)
    total = tl.fma(total, before, split_total * now)
    kept = tl.broadcast_to(_of_rows(before, KEYS_TALL), acc.shape)
    return highest, total, tl.fma(acc, kept, split_acc * _of_rows(now, KEYS_TALL))


@triton.jit
def _block_ids(table, start, context, columns, BLOCK_SIZE: tl.constexpr, KV_TILE: tl.constexpr):
    """Blocks of the tile of keys from `start` on, -1 for none: one number where the tile is in one block, else (KV_TILE,)."""
    if BLOCK_SIZE % KV_TILE == 0:
        place = start // BLOCK_SIZE
        return tl.load(table + place, mask=(place >= 0) & (place < columns), other=-1, cache_modifier=".cg")
    else:
        key = start + tl.arange(0, KV_TILE)
        place = key // BLOCK_SIZE
        inside = (key < context) & (place >= 0) & (place < columns)
        return tl.load(table + place, mask=inside, other=-1, cache_modifier=".cg")


@triton.jit
def _attend(
    item, queries, cache, tables, work, out, split_stats, split_accs,
    rows, tables_rows, columns, blocks, num_split_results, side_stride, scale, v_scale, overlap_previous,
    KV_HEADS: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    TILES: tl.constexpr, ROWS: tl.constexpr, HEAD: tl.constexpr, KV_TILE: tl.constexpr, SPLIT: tl.constexpr, KEYS_TALL: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """One query tile, one KV head, some splits of its context: `item` is the tile times KV_HEADS plus the head, and a line has TILES of them.

    A tile's row is (token, query head of the KV head). The result goes to `out`, or unfinished to the split results.
    KEYS_TALL: scores are (keys, rows) and sums of values (D, rows), so that 16 rows fit the narrow side of a product.
    Block ids are loaded a tile ahead, so that keys and values wait for nothing of their own step. The step's plan is older than the
    kernel before, and read before the wait for it.
    """
    along: tl.constexpr = 0 if KEYS_TALL else 1
    heads = KV_HEADS * SHARED
    row = tl.arange(0, ROWS)
    token = row // SHARED
    column = tl.arange(0, HEAD)
    inside = column < WIDTH
    slot_stride = KV_HEADS * WIDTH
    offset = tl.arange(0, KV_TILE)
    tile = item // KV_HEADS
    entry = work + tile // TILES * LINE
    group = item % KV_HEADS
    chunk = tl.load(entry, cache_modifier=".cg")
    first_row = tl.load(entry + 1, cache_modifier=".cg")
    tokens = tl.load(entry + 2, cache_modifier=".cg")
    first_position = tl.load(entry + 3, cache_modifier=".cg")
    first_split = tl.load(entry + 4, cache_modifier=".cg")
    end_split = tl.load(entry + 5, cache_modifier=".cg")
    split_result = tl.load(entry + 6, cache_modifier=".cg")
    # this tile's own part of the line
    before = tile % TILES * (ROWS // SHARED)
    first_row += before
    first_position += before
    tokens = tl.minimum(tokens - before, ROWS // SHARED)
    sound = (tokens > 0) & (chunk >= 0) & (chunk < tables_rows) & (first_row >= 0) & (first_row < rows)
    sound = sound & (first_position >= 0) & (first_split >= 0)
    if sound:
        live_row = (token < tokens) & (first_row + token < rows)
        position = first_position + token
        context = first_position + tokens
        seen_by_all = first_position + 1
        head = group * SHARED + row % SHARED
        at = _of_rows(((first_row + token).to(tl.int64) * heads + head) * WIDTH, KEYS_TALL)
        at += _of_columns(column, KEYS_TALL)
        mask = _of_rows(live_row, KEYS_TALL) & _of_columns(inside, KEYS_TALL)
        table = tables + chunk.to(tl.int64) * columns
        keys = cache + group * WIDTH + column
        row_max = tl.full((ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        acc = tl.zeros((HEAD, ROWS) if KEYS_TALL else (ROWS, HEAD), tl.float32)
        missing = tl.zeros(() if BLOCK_SIZE % KV_TILE == 0 else (KV_TILE,), tl.int32)
        first_key = first_split * SPLIT
        end = tl.minimum(end_split * SPLIT, context)
        # all totals of a row are the same: one, and zeros
        one = _of_columns(tl.arange(0, ONES_TALL if KEYS_TALL else ONES_WIDE) == 0, KEYS_TALL)
        tile_row_max = tl.full((ROWS,), float("-inf"), tl.float32)
        tile_totals = tl.zeros((ONES_TALL, ROWS) if KEYS_TALL else (ROWS, ONES_WIDE), tl.float32)
        tile_acc = tl.zeros((HEAD, ROWS) if KEYS_TALL else (ROWS, HEAD), tl.float32)
        next_block = _block_ids(table, first_key, context, columns, BLOCK_SIZE, KV_TILE)
        if overlap_previous == 0:
            wait_for_previous(PDL)
        q = tl.load(queries + at, mask=mask, other=0.0)
        # one loop over all splits: one for each would wait for the first keys of each
        for start in range(first_key, end, KV_TILE):
            key = start + offset
            block = next_block
            next_block = _block_ids(table, start + KV_TILE, context, columns, BLOCK_SIZE, KV_TILE)
            sound_block = (block >= 0) & (block < blocks)
            if BLOCK_SIZE % KV_TILE == 0:
                # one block: a limit for all keys, and addresses that are its own plus what does not change
                known = offset < tl.where(sound_block, context - start, 0)
                missing |= tl.where(sound_block, 0, 1)
                first = keys + (block.to(tl.int64) * BLOCK_SIZE + start % BLOCK_SIZE) * slot_stride
                key_at = first[None, :] + (offset * slot_stride)[:, None]
            else:
                known = sound_block
                missing |= ((key < context) & (known == 0)).to(tl.int32)
                slot = block.to(tl.int64) * BLOCK_SIZE + key % BLOCK_SIZE
                key_at = keys[None, :] + slot[:, None] * slot_stride
            read = known[:, None] & inside[None, :]
            k = tl.load(key_at, mask=read, other=0.0).to(tl.bfloat16)
            v = tl.load(key_at + side_stride, mask=read, other=0.0).to(tl.bfloat16)
            scores = tl.dot(k, q) if KEYS_TALL else tl.dot(q, tl.trans(k))
            if start + KV_TILE > seen_by_all:
                seen = _of_columns(key, KEYS_TALL) <= _of_rows(position, KEYS_TALL)
                scores = tl.where(seen, scores, float("-inf"))
            peak = tl.max(scores, along)
            if (start % SPLIT == 0) & (start > first_key):
                tile_total = tl.sum(tl.where(one, tile_totals, 0.0), along)
                row_max, total, acc = _merge(row_max, total, acc, tile_row_max, tile_total, tile_acc, scale, KEYS_TALL)
                # minus infinity by way of this tile's scores: Triton would put the merge before their product, and so have
                # the product before it waited for at its own end
                tile_row_max = tl.minimum(peak, float("-inf"))
                tile_totals = tl.zeros((ONES_TALL, ROWS) if KEYS_TALL else (ROWS, ONES_WIDE), tl.float32)
                tile_acc = tl.zeros((HEAD, ROWS) if KEYS_TALL else (ROWS, HEAD), tl.float32)
            highest = tl.maximum(tile_row_max, peak)
            reference = _reference(highest)
            level = tl.broadcast_to(_of_rows(-reference * scale, KEYS_TALL), scores.shape)
            weights = tl.exp2(tl.fma(scores, tl.full(scores.shape, scale, tl.float32), level)).to(tl.bfloat16)
            shrink = _of_rows(tl.exp2((tile_row_max - reference) * scale), KEYS_TALL)
            # weights are summed by a product too: its order along the keys does not hang on which side is tall
            if KEYS_TALL:
                ones = tl.full((ONES_TALL, KV_TILE), 1.0, tl.float32).to(tl.bfloat16)
                tile_totals = tl.dot(ones, weights, tile_totals * shrink)
                tile_acc = tl.dot(tl.trans(v), weights, tile_acc * shrink)
            else:
                ones = tl.full((KV_TILE, ONES_WIDE), 1.0, tl.float32).to(tl.bfloat16)
                tile_totals = tl.dot(weights, ones, tile_totals * shrink)
                tile_acc = tl.dot(weights, v, tile_acc * shrink)
            tile_row_max = highest
        tile_total = tl.sum(tl.where(one, tile_totals, 0.0), along)
        row_max, total, acc = _merge(row_max, total, acc, tile_row_max, tile_total, tile_acc, scale, KEYS_TALL)
        # a context without its blocks is no context: better NaN than numbers made of less
        if BLOCK_SIZE % KV_TILE != 0:
            missing = tl.max(missing, 0)
        total = tl.where(missing > 0, float("nan"), total)

        if split_result < 0:
            share = acc * _of_rows(_share(total, v_scale), KEYS_TALL)
            tl.store(out + at, share.to(tl.bfloat16), mask=mask)
        else:
            kept = split_result.to(tl.int64) + before + token
            live_row &= kept < num_split_results
            stat = split_stats + (kept * heads + head) * 2
            tl.store(stat, row_max, mask=live_row)
            tl.store(stat + 1, total, mask=live_row)
            spot = _of_rows((kept * heads + head) * WIDTH, KEYS_TALL) + _of_columns(column, KEYS_TALL)
            written = _of_rows(live_row, KEYS_TALL) & _of_columns(inside, KEYS_TALL)
            tl.store(split_accs + spot, acc, mask=written)


@triton.jit(
    do_not_specialize=[
        "rows", "tables_rows", "columns", "blocks", "num_split_results", "lines", "overlap_previous",
    ]
)  # fmt: skip
def attend_kernel(
    queries, cache, tables, work, lines_in_use, out, split_stats, split_accs,
    rows, tables_rows, columns, blocks, num_split_results, lines, side_stride, scale, v_scale, overlap_previous,
    KV_HEADS: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    TILES: tl.constexpr, ROWS: tl.constexpr, HEAD: tl.constexpr, KV_TILE: tl.constexpr, SPLIT: tl.constexpr, KEYS_TALL: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Grid (lines of work x TILES x KV_HEADS,); or, where only device memory says how many lines there are, any.

    overlap_previous: 1 behind the same kernel for other work, beside which this one may run; no constant, so that no step
    waits for one more kernel to be compiled.

    The loop of the second kind costs 6 to 8 % of the first's time on an H200.
    """
    if overlap_previous != 0:
        launch_next_early(PDL)
    if lines_in_use is None:
        _attend(
            tl.program_id(0), queries, cache, tables, work, out, split_stats, split_accs,
            rows, tables_rows, columns, blocks, num_split_results, side_stride, scale, v_scale, overlap_previous,
            KV_HEADS, SHARED, WIDTH, BLOCK_SIZE, TILES, ROWS, HEAD, KV_TILE, SPLIT, KEYS_TALL, PDL,
        )  # fmt: skip
    else:
        for item in range(
            tl.program_id(0), load_rows_in_use(lines_in_use, lines) * TILES * KV_HEADS, tl.num_programs(0)
        ):
            _attend(
                item, queries, cache, tables, work, out, split_stats, split_accs,
                rows, tables_rows, columns, blocks, num_split_results, side_stride, scale, v_scale, overlap_previous,
                KV_HEADS, SHARED, WIDTH, BLOCK_SIZE, TILES, ROWS, HEAD, KV_TILE, SPLIT, KEYS_TALL, PDL,
            )  # fmt: skip
    wait_for_previous(PDL)  # programs without work, and those that overlapped the kernel before, must not end before it


@triton.jit(do_not_specialize=["rows", "num_split_results", "num_merges"])
def merge_kernel(
    split_stats, split_accs, merges, lines_in_use, out, rows, num_split_results, num_merges, heads, scale, v_scale,
    WIDTH: tl.constexpr, HEAD: tl.constexpr, HEADS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Any grid: each (line of `merges`, HEADS heads) is one program's: the splits of one row, in order."""
    wait_for_previous(PDL)
    column = tl.arange(0, HEAD)
    head_groups = tl.cdiv(heads, HEADS)
    for item in range(tl.program_id(0), load_rows_in_use(lines_in_use, num_merges) * head_groups, tl.num_programs(0)):
        entry = merges + (item // head_groups).to(tl.int64) * 4
        head = item % head_groups * HEADS + tl.arange(0, HEADS)
        inside = (head < heads)[:, None] & (column < WIDTH)[None, :]
        row = tl.load(entry)
        first = tl.load(entry + 1)
        step = tl.load(entry + 2)
        count = tl.load(entry + 3)
        if (row >= 0) & (row < rows) & (first >= 0):
            row_max = tl.full((HEADS,), float("-inf"), tl.float32)
            total = tl.zeros((HEADS,), tl.float32)
            acc = tl.zeros((HEADS, HEAD), tl.float32)
            for index in range(count):
                slot = first.to(tl.int64) + index * step.to(tl.int64)
                at = slot * heads + head
                known = (slot >= 0) & (slot < num_split_results) & (head < heads)
                split_row_max = tl.load(split_stats + at * 2, mask=known, other=float("nan"))
                split_total = tl.load(split_stats + at * 2 + 1, mask=known, other=float("nan"))
                split_acc = tl.load(
                    split_accs + at[:, None] * WIDTH + column[None, :], mask=known[:, None] & inside, other=0.0
                )
                row_max, total, acc = _merge(row_max, total, acc, split_row_max, split_total, split_acc, scale, False)
            out_at = (row.to(tl.int64) * heads + head)[:, None] * WIDTH + column[None, :]
            share = acc * _share(total, v_scale)[:, None]
            tl.store(out + out_at, share.to(tl.bfloat16), mask=inside)

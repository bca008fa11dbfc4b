"""Warp-specialised causal paged attention for Hopper in Gluon (Triton 3.6): the bits of octavo's `attend_kernel`, an experiment.

One CTA computes 2 pieces of 64 rows (each 64 / SHARED tokens x SHARED query heads) against one KV head. Warps 0-3 (the default
partition) have piece 0, warps 4-7 piece 1, warp 8 loads keys and values. The CTA walks over the tiles of 64 keys that the later
piece sees; what the earlier one does not see is masked, and leaves its numbers as they are (see `Masked tiles` below).

Loads come in units: unit u, 0 <= u <= tiles, is the keys of tile u (none in the last) and the values of tile u - 1 (none in the first),
which is what a consumer multiplies at a time. Unit u uses stage u % STAGES, as that stage's use number u // STAGES. STAGES of each
barrier:
    full    1 arrival (the producer's expect) and all bytes of the unit's bulk copies complete a phase
    empty   2 arrivals, one of each consumer, complete a phase

    producer before unit u: the stage's use u // STAGES - 1 is over, the (u // STAGES)-th completion of `empty` -> parity
        (u // STAGES & 1) ^ 1. For a first use that is parity 1 of a fresh barrier, which counts as complete: no wait.
    consumer before unit u: the (u // STAGES + 1)-th completion of `full` -> parity u // STAGES & 1
A waiter is never a phase behind or ahead: `full` of a stage's next use can't complete before the producer has seen `empty` of this
one, for which each consumer must have arrived after its own wait for `full` of this use; `empty` of the next use can't complete before the
consumers have seen `full` of the next use, which the producer arms after its wait for `empty` of this one.

A consumer: wait for unit 0, multiply, free it (arrive); wait for unit 1; for u = 1 .. tiles - 1: multiply unit u, softmax, wait for unit
u + 1, wait for its own products, free unit u; multiply unit `tiles`. It never waits for the other consumer.

No deadlock, for STAGES >= 2. Suppose nobody goes on. The producer has issued units 0 .. u - 1 and waits for unit u - STAGES being freed
by a consumer (if it has issued all, consumers wait for nothing forever: copies end). That consumer waits for a unit not issued, u or
later. Were it before freeing unit u - STAGES, it would wait for at most unit u - STAGES + 1 <= u - 1, issued: so it has freed it.
Contradiction. The three partitions compute items and numbers of tiles from the same memory by the same function (`_item`, `_line`), so they
agree. Units are counted on through all items of a program: every unit is waited for and freed by both consumers, the last of an item
too, so stages and phases go on where they were, and no copy is in flight at the end. simulate.py runs random interleavings of this.

PINGPONG: consumers take turns in issuing products, by named barriers 8 (to piece 0) and 9 (to piece 1). Piece 1 gives the first turn
before its loop; then piece 0 takes 8, issues, gives 9; piece 1 takes 9, issues, gives 8 unless this was its last. Both have
tiles - 1 turns, each given once and taken once, and none is given again before it was taken. No deadlock: piece 0 in its turn i waits for
piece 1's issue of turn i - 1, which waits for piece 0's turn i - 1 (issued) and for unit i - 1 (there, as piece 0 had it); piece 1 in
turn i waits for piece 0's turn i, which waits for unit i, for which the stage of unit i - STAGES <= i - 2 was freed by both before.

Masked tiles. A row that has seen a key has a finite maximum, so a tile with scores of minus infinity has highest = tile_row_max, weights
exp2(-inf) = 0, shrink exp2(0) = 1: sums + 0 exactly. Where the tile starts a split, the merge comes before, the empty split has maximum
minus infinity, sums 0, reference 0, and the last merge multiplies by exp2(0) = 1 and adds 0 * exp2(-inf) = 0. Position >= 0, so a row
sees a key in the first tile of the first split; in work of a later split it may not, and then row_max = -inf, reference 0 throughout, as
in the Triton kernel.

Order of a consumer's loop. Scores of tile i and values of tile i - 1 are multiplied one behind the other; the softmax of tile i runs beside
the second; then sums are scaled. Asking for the scores of tile i + 1 before that scaling was tried: ptxas then waits behind every
single wgmma, as sums of a product may not be written by other instructions while any product is in flight.

PTX hazards. An operand of an asynchronous wgmma that lies in registers (weights; queries) must not be written while it is in flight.
`weights` is a dependency of the wait that follows, so that its registers live until then; compile.py checks the machine code.
"""

from __future__ import annotations

import math

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

KV_TILE = gl.constexpr(64)
PIECE_ROWS = gl.constexpr(64)
ONES_WIDE = gl.constexpr(8)


@gluon.jit
def _wait_for_previous(PDL: gl.constexpr):
    if PDL:
        gl.inline_asm_elementwise("griddepcontrol.wait; // dummy $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def _launch_next(PDL: gl.constexpr):
    if PDL:
        gl.inline_asm_elementwise(
            "griddepcontrol.launch_dependents; // dummy $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1
        )


@gluon.jit
def _reference(row_max):
    return gl.where(row_max == float("-inf"), 0.0, row_max)


@gluon.jit
def _next(stage, phase, STAGES: gl.constexpr):
    stage += 1
    wraps = stage == STAGES
    return gl.where(wraps, 0, stage), gl.where(wraps, phase ^ 1, phase)


@gluon.jit
def _item(turn, items):
    """This program's work of one turn, `items` or more for none: turns go to and fro, so that the longest pieces, which come first, are
    not one program's in every turn."""
    programs = gl.num_programs(0)
    place = gl.where(turn % 2 == 0, gl.program_id(0), programs - 1 - gl.program_id(0))
    return turn * programs + place


@gluon.jit
def _line(work, item, rows, tables_rows, KV_HEADS: gl.constexpr, SPLIT: gl.constexpr):
    """A line of work, and its first key and number of tiles; no tiles where it is not sound. All partitions read the same."""
    entry = work + item // KV_HEADS * 8
    chunk = gl.load(entry, cache_modifier=".cg")
    first_row = gl.load(entry + 1, cache_modifier=".cg")
    tokens = gl.load(entry + 2, cache_modifier=".cg")
    first_position = gl.load(entry + 3, cache_modifier=".cg")
    first_split = gl.load(entry + 4, cache_modifier=".cg")
    end_split = gl.load(entry + 5, cache_modifier=".cg")
    split_result = gl.load(entry + 6, cache_modifier=".cg")
    context = gl.load(entry + 7, cache_modifier=".cg")
    sound = (chunk >= 0) & (chunk < tables_rows) & (first_row >= 0) & (first_row < rows)
    sound = sound & (first_position >= 0) & (first_split >= 0)
    chunk = gl.where(sound, chunk, 0)
    first_key = gl.where(sound, first_split * SPLIT, 0)
    end = gl.minimum(end_split * SPLIT, first_position + tokens)
    tiles = gl.where(sound, gl.maximum((end - first_key + KV_TILE - 1) // KV_TILE, 0), 0)
    return chunk, first_row, tokens, first_position, split_result, context, first_key, tiles


@gluon.jit
def _producer(
    kv_tiles, k_buffers, v_buffers, full, empty, tables, work, items, rows, tables_rows, columns, blocks,
    KV_HEADS: gl.constexpr, WIDTH: gl.constexpr, BLOCK_SIZE: gl.constexpr, SPLIT: gl.constexpr, STAGES: gl.constexpr,
    PDL: gl.constexpr,
):  # fmt: skip
    """Bulk copies of all units. Block ids are older than the kernel before, and asked for a tile ahead."""
    stage = gl.to_tensor(0)
    phase = gl.to_tensor(1)
    for turn in range(gl.cdiv(items, gl.num_programs(0))):
        item = _item(turn, items)
        if item < items:
            chunk, _, _, _, _, _, first_key, tiles = _line(work, item, rows, tables_rows, KV_HEADS, SPLIT)
            kv_column = item % KV_HEADS * WIDTH
            table = tables + chunk.to(gl.int64) * columns
            place = first_key // BLOCK_SIZE
            next_block = gl.load(table + place, mask=(tiles > 0) & (place < columns), other=-1, cache_modifier=".cg")
            _wait_for_previous(PDL)
            v_slot = gl.to_tensor(0)
            units = gl.where(tiles > 0, tiles + 1, 0)
            for unit in range(units):
                start = first_key + unit * KV_TILE
                block = next_block
                place = (start + KV_TILE) // BLOCK_SIZE
                next_block = gl.load(table + place, mask=place < columns, other=-1, cache_modifier=".cg")
                sound = (block >= 0) & (block < blocks)
                # past the end a bulk copy reads zeros
                slot = gl.where(sound, block * BLOCK_SIZE + start % BLOCK_SIZE, 2 * blocks * BLOCK_SIZE)
                has_keys = unit < tiles
                has_values = unit > 0
                mbarrier.wait(empty.index(stage), phase)
                mbarrier.expect(full.index(stage), kv_tiles.block_type.nbytes, pred=has_keys != has_values)
                mbarrier.expect(full.index(stage), 2 * kv_tiles.block_type.nbytes, pred=has_keys & has_values)
                tma.async_copy_global_to_shared(
                    kv_tiles, [slot, kv_column], full.index(stage), k_buffers.index(stage), pred=has_keys
                )
                tma.async_copy_global_to_shared(
                    kv_tiles, [v_slot, kv_column], full.index(stage), v_buffers.index(stage), pred=has_values
                )
                v_slot = slot + blocks * BLOCK_SIZE
                stage, phase = _next(stage, phase, STAGES)
    _wait_for_previous(PDL)  # one without work must not end before it


@gluon.jit
def _take_turn(PIECE: gl.constexpr):
    """Wait for the other consumer's `_give_turn` to this one: named barriers 8 and 9, which Triton does not use (one for each partition,
    and 0 and 1); 128 threads arrive, 128 wait."""
    if PIECE == 0:
        gl.inline_asm_elementwise("bar.sync 8, 256; // dummy $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1)
    else:
        gl.inline_asm_elementwise("bar.sync 9, 256; // dummy $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def _give_turn(PIECE: gl.constexpr):
    if PIECE == 0:
        gl.inline_asm_elementwise("bar.arrive 8, 256; // dummy $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1)
    else:
        gl.inline_asm_elementwise("bar.arrive 9, 256; // dummy $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def _scores(q, k_buffer, QK: gl.constexpr):
    """q k^T, in flight."""
    zeros = gl.zeros([PIECE_ROWS, KV_TILE], gl.float32, QK)
    return warpgroup_mma(q, k_buffer.permute((1, 0)), zeros, use_acc=False, is_async=True)


@gluon.jit
def _masked(scores, start, position, seen_by_all, QK: gl.constexpr):
    if start + KV_TILE > seen_by_all:
        key = start + gl.arange(0, KV_TILE, gl.SliceLayout(0, QK))
        seen = key[None, :] <= position[:, None]
        scores = gl.where(seen, scores, float("-inf"))
    return scores


@gluon.jit
def _weights(scores, tile_row_max, peak, scale, QK: gl.constexpr):
    """The new maximum of a split, weights relative to it, and what sums relative to the old one shrink by."""
    highest = gl.maximum(tile_row_max, peak)
    reference = _reference(highest)
    level = -reference * scale
    _, levels = gl.broadcast(scores, level[:, None])
    weights = gl.exp2(gl.fma(scores, gl.full(scores.shape, scale, gl.float32, QK), levels))
    shrink = gl.exp2((tile_row_max - reference) * scale)
    return highest, weights, shrink


@gluon.jit
def _summed(weights, tile_totals, shrink, QK: gl.constexpr, SUMS: gl.constexpr):
    """tile_totals * shrink + weights x ones, by single warps' products."""
    left: gl.constexpr = gl.DotOperandLayout(0, SUMS, 2)
    right: gl.constexpr = gl.DotOperandLayout(1, SUMS, 2)
    ones = gl.full([KV_TILE, ONES_WIDE], 1.0, gl.bfloat16, right)
    by = gl.convert_layout(shrink, gl.SliceLayout(1, SUMS), assert_trivial=True)[:, None]
    return mma_v2(gl.convert_layout(weights, left, assert_trivial=True), ones, tile_totals * by)


@gluon.jit
def _one_total(tile_totals, QK: gl.constexpr, SUMS: gl.constexpr):
    one = (gl.arange(0, ONES_WIDE, gl.SliceLayout(0, SUMS)) == 0)[None, :]
    total = gl.sum(gl.where(one, tile_totals, 0.0), 1)
    return gl.convert_layout(total, gl.SliceLayout(1, QK), assert_trivial=True)


@gluon.jit
def _merge(row_max, total, acc, split_row_max, split_total, split_acc, scale, PV: gl.constexpr):
    """Both halves of a softmax relative to the larger maximum, as octavo's `_merge`."""
    highest = gl.maximum(row_max, split_row_max)
    reference = _reference(highest)
    before = gl.exp2((row_max - reference) * scale)
    now = gl.exp2((split_row_max - reference) * scale)
    total = gl.fma(total, before, split_total * now)
    _, kept = gl.broadcast(acc, gl.convert_layout(before, gl.SliceLayout(1, PV), assert_trivial=True)[:, None])
    new = gl.convert_layout(now, gl.SliceLayout(1, PV), assert_trivial=True)[:, None]
    return highest, total, gl.fma(acc, kept, split_acc * new)


@gluon.jit
def _consumer(
    k_buffers, v_buffers, q_buffers, acc_buffers, full, empty, queries, tables, work, out, split_stats, split_accs,
    items, rows, tables_rows, columns, blocks, num_split_results, scale,
    KV_HEADS: gl.constexpr, SHARED: gl.constexpr, WIDTH: gl.constexpr, BLOCK_SIZE: gl.constexpr, SPLIT: gl.constexpr,
    STAGES: gl.constexpr, Q_REGS: gl.constexpr, ACC_SHARED: gl.constexpr, PINGPONG: gl.constexpr, PDL: gl.constexpr,
    PIECE: gl.constexpr,
):  # fmt: skip
    stage = gl.to_tensor(0)
    phase = gl.to_tensor(0)
    for turn in range(gl.cdiv(items, gl.num_programs(0))):
        item = _item(turn, items)
        if item < items:
            stage, phase = _attend(
                k_buffers, v_buffers, q_buffers, acc_buffers, full, empty, queries, tables, work, out, split_stats, split_accs,
                item, rows, tables_rows, columns, blocks, num_split_results, scale, stage, phase,
                KV_HEADS, SHARED, WIDTH, BLOCK_SIZE, SPLIT, STAGES, Q_REGS, ACC_SHARED, PINGPONG, PDL, PIECE,
            )  # fmt: skip
    _wait_for_previous(PDL)  # one without work must not end before it


@gluon.jit
def _attend(
    k_buffers, v_buffers, q_buffers, acc_buffers, full, empty, queries, tables, work, out, split_stats, split_accs,
    item, rows, tables_rows, columns, blocks, num_split_results, scale, stage, phase,
    KV_HEADS: gl.constexpr, SHARED: gl.constexpr, WIDTH: gl.constexpr, BLOCK_SIZE: gl.constexpr, SPLIT: gl.constexpr,
    STAGES: gl.constexpr, Q_REGS: gl.constexpr, ACC_SHARED: gl.constexpr, PINGPONG: gl.constexpr, PDL: gl.constexpr,
    PIECE: gl.constexpr,
):  # fmt: skip
    """64 rows: tokens PIECE * 64 / SHARED on of the line. `stage` and `phase`: of the next unit."""
    QK: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])
    PV: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [4, 1], [16, 8])
    ROW: gl.constexpr = gl.SliceLayout(1, QK)
    FLAT: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    EVERY_WARP: gl.constexpr = gl.SliceLayout(0, gl.BlockedLayout([1, 8], [1, 32], [4, 1], [1, 0]))
    chunk, first_row, tokens, first_position, split_result, context, first_key, tiles = _line(
        work, item, rows, tables_rows, KV_HEADS, SPLIT
    )
    group = item % KV_HEADS
    table = tables + chunk.to(gl.int64) * columns
    heads = KV_HEADS * SHARED
    piece_tokens: gl.constexpr = PIECE_ROWS // SHARED
    # this piece's own line of work; no tokens where the line has none left for it
    first_row += PIECE * piece_tokens
    first_position += PIECE * piece_tokens
    tokens = gl.minimum(tokens - PIECE * piece_tokens, piece_tokens)
    split_result += gl.where(split_result < 0, 0, PIECE * piece_tokens)
    seen_by_all = first_position + 1

    # where this piece's rows are, in a layout with whole rows next to each other
    flat_row = gl.arange(0, PIECE_ROWS, gl.SliceLayout(1, FLAT))
    flat_token = flat_row // SHARED
    flat_column = gl.arange(0, WIDTH, gl.SliceLayout(0, FLAT))
    flat_head = group * SHARED + flat_row % SHARED
    flat_live = (flat_token < tokens) & (first_row + flat_token < rows)
    at = (((first_row + flat_token).to(gl.int64) * heads + flat_head) * WIDTH)[:, None] + flat_column[None, :]

    # blocks that this piece needs and that are missing: every warp looks at all of them, so that none waits for another
    own_end = gl.minimum(first_key + tiles * KV_TILE, first_position + tokens)
    place = gl.arange(0, 256, EVERY_WARP)
    bad = gl.zeros([256], gl.int32, EVERY_WARP)
    end_place = (own_end + BLOCK_SIZE - 1) // BLOCK_SIZE
    for first_place in range(first_key // BLOCK_SIZE, end_place, 256):
        there = first_place + place
        needed = there < end_place
        block = gl.load(table + there, mask=needed & (there < columns), other=-1, cache_modifier=".cg")
        bad |= (needed & ((block < 0) | (block >= blocks))).to(gl.int32)
    missing = gl.max(bad, 0)

    q_buffer = q_buffers.index(PIECE)
    _wait_for_previous(PDL)
    if PIECE == 0:
        _launch_next(PDL)
    if tiles > 0:
        q_buffer.store(gl.load(queries + at, mask=flat_live[:, None], other=0.0))
        fence_async_shared()
        gl.thread_barrier()
        if Q_REGS:
            q = q_buffer.load(gl.DotOperandLayout(0, QK, 2))
        else:
            q = q_buffer

        row = gl.arange(0, PIECE_ROWS, ROW)
        position = first_position + row // SHARED
        row_max = gl.full([PIECE_ROWS], float("-inf"), gl.float32, ROW)
        total = gl.zeros([PIECE_ROWS], gl.float32, ROW)
        acc = gl.zeros([PIECE_ROWS, WIDTH], gl.float32, PV)
        acc_buffer = acc_buffers.index(PIECE)
        if ACC_SHARED:
            acc_buffer.store(acc)
        tile_totals = gl.zeros([PIECE_ROWS, ONES_WIDE], gl.float32, SUMS)
        tile_acc = gl.zeros([PIECE_ROWS, WIDTH], gl.float32, PV)

        # unit 0, the first tile's keys: nothing to shrink, no merge
        mbarrier.wait(full.index(stage), phase)
        scores = warpgroup_mma_wait(0, deps=[_scores(q, k_buffers.index(stage), QK)])
        mbarrier.arrive(empty.index(stage))
        scores = _masked(scores, first_key, position, seen_by_all, QK)
        nothing = gl.full([PIECE_ROWS], float("-inf"), gl.float32, ROW)
        tile_row_max, weights, shrink = _weights(scores, nothing, gl.max(scores, 1), scale, QK)
        left = gl.convert_layout(weights.to(gl.bfloat16), gl.DotOperandLayout(0, PV, 2), assert_trivial=True)
        tile_totals = _summed(left, tile_totals, shrink, QK, SUMS)
        stage, phase = _next(stage, phase, STAGES)
        mbarrier.wait(full.index(stage), phase)
        if PINGPONG and PIECE == 1:
            if tiles > 1:
                _give_turn(0)
        for tile in range(1, tiles):
            # unit `tile` is there
            start = first_key + tile * KV_TILE
            if PINGPONG:
                _take_turn(PIECE)
            coming = _scores(q, k_buffers.index(stage), QK)
            adding = warpgroup_mma(left, v_buffers.index(stage), tile_acc, is_async=True)
            if PINGPONG:
                if PIECE == 0:
                    _give_turn(1)
                elif tile + 1 < tiles:
                    _give_turn(0)
            # the scores are there, the product with values goes on
            scores = warpgroup_mma_wait(1, deps=[coming])
            scores = _masked(scores, start, position, seen_by_all, QK)
            peak = gl.max(scores, 1)
            new_split = start % SPLIT == 0
            # minus infinity where a split begins, by arithmetic: the branch below comes later
            before = gl.where(new_split, float("-inf"), tile_row_max)
            highest, weights, shrink = _weights(scores, before, peak, scale, QK)
            # the next unit is waited for here, in the shadow of the product: ptxas would move its end before the
            # weights, were there no branch between
            next_stage, next_phase = _next(stage, phase, STAGES)
            mbarrier.wait(full.index(next_stage), next_phase)
            # the wait takes the old weights, whose registers the product reads until now, and the new ones, which must not be
            # computed behind it
            tile_acc, weights, _ = warpgroup_mma_wait(0, deps=[adding, weights, left])
            mbarrier.arrive(empty.index(stage))
            left = gl.convert_layout(weights.to(gl.bfloat16), gl.DotOperandLayout(0, PV, 2), assert_trivial=True)
            if new_split:
                if ACC_SHARED:
                    acc = acc_buffer.load(PV)
                row_max, total, acc = _merge(
                    row_max, total, acc, tile_row_max, _one_total(tile_totals, QK, SUMS), tile_acc, scale, PV
                )
                if ACC_SHARED:
                    acc_buffer.store(acc)
                tile_totals = gl.zeros([PIECE_ROWS, ONES_WIDE], gl.float32, SUMS)
                tile_acc = gl.zeros([PIECE_ROWS, WIDTH], gl.float32, PV)
            tile_row_max = highest
            tile_totals = _summed(left, tile_totals, shrink, QK, SUMS)
            by = gl.convert_layout(shrink, gl.SliceLayout(1, PV), assert_trivial=True)[:, None]
            tile_acc = tile_acc * by
            stage = next_stage
            phase = next_phase

        # unit `tiles`, the last tile's values, is there
        last = first_key + (tiles - 1) * KV_TILE
        if last + KV_TILE > context:
            # slots past the chunk may hold NaN: a copy without them, where the queries were, which nothing reads any more
            v = v_buffers.index(stage).load(FLAT)
            key = last + gl.arange(0, KV_TILE, gl.SliceLayout(1, FLAT))
            gl.thread_barrier()
            q_buffer.store(gl.where((key < context)[:, None], v, 0.0))
            fence_async_shared()
            gl.thread_barrier()
            tile_acc = warpgroup_mma_wait(0, deps=[warpgroup_mma(left, q_buffer, tile_acc, is_async=True)])
        else:
            tile_acc = warpgroup_mma_wait(0, deps=[warpgroup_mma(left, v_buffers.index(stage), tile_acc, is_async=True)])
        mbarrier.arrive(empty.index(stage))
        stage, phase = _next(stage, phase, STAGES)
        if ACC_SHARED:
            acc = acc_buffer.load(PV)
        row_max, total, acc = _merge(
            row_max, total, acc, tile_row_max, _one_total(tile_totals, QK, SUMS), tile_acc, scale, PV
        )
        # a context without its blocks is no context: better NaN than numbers made of less
        total = gl.where(missing > 0, float("nan"), total)

        if split_result < 0:
            inverse = gl.div_rn(gl.full([PIECE_ROWS], 1.0, gl.float32, ROW), total)
            share = acc * gl.convert_layout(inverse, gl.SliceLayout(1, PV), assert_trivial=True)[:, None]
            gl.thread_barrier()
            q_buffer.store(share.to(gl.bfloat16))
            gl.thread_barrier()
            gl.store(out + at, q_buffer.load(FLAT), mask=flat_live[:, None])
        else:
            token = row // SHARED
            kept = split_result.to(gl.int64) + token
            live = (token < tokens) & (first_row + token < rows) & (kept < num_split_results)
            stat = split_stats + (kept * heads + group * SHARED + row % SHARED) * 2
            gl.store(stat, row_max, mask=live)
            gl.store(stat + 1, total, mask=live)
            wide_row = gl.arange(0, PIECE_ROWS, gl.SliceLayout(1, PV))
            wide_token = wide_row // SHARED
            wide_kept = split_result.to(gl.int64) + wide_token
            wide_live = (wide_token < tokens) & (first_row + wide_token < rows) & (wide_kept < num_split_results)
            spot = ((wide_kept * heads + group * SHARED + wide_row % SHARED) * WIDTH)[:, None]
            spot += gl.arange(0, WIDTH, gl.SliceLayout(0, PV))[None, :]
            gl.store(split_accs + spot, acc, mask=wide_live[:, None])
    return stage, phase


@gluon.jit(do_not_specialize=["rows", "tables_rows", "columns", "blocks", "num_split_results", "lines"])
def attend_kernel(
    queries, kv_tiles, tables, work, lines_in_use, out, split_stats, split_accs,
    rows, tables_rows, columns, blocks, num_split_results, lines, scale,
    KV_HEADS: gl.constexpr, SHARED: gl.constexpr, WIDTH: gl.constexpr, BLOCK_SIZE: gl.constexpr, SPLIT: gl.constexpr,
    STAGES: gl.constexpr, Q_REGS: gl.constexpr, ACC_SHARED: gl.constexpr, PINGPONG: gl.constexpr,
    CONSUMER_REGS: gl.constexpr, PRODUCER_REGS: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    """Any grid: (line of work, KV head) go round its programs. Lines as octavo's, of up to 128 / SHARED tokens."""
    gl.static_assert(BLOCK_SIZE % KV_TILE == 0)
    gl.static_assert(WIDTH == 128)
    gl.static_assert(PIECE_ROWS % SHARED == 0)
    gl.static_assert(STAGES >= 2)
    if lines_in_use is not None:
        lines = gl.minimum(gl.maximum(gl.load(lines_in_use, cache_modifier=".cg"), 0), lines)
    items = lines * KV_HEADS

    k_buffers = gl.allocate_shared_memory(gl.bfloat16, [STAGES, KV_TILE, WIDTH], kv_tiles.layout)
    v_buffers = gl.allocate_shared_memory(gl.bfloat16, [STAGES, KV_TILE, WIDTH], kv_tiles.layout)
    q_buffers = gl.allocate_shared_memory(gl.bfloat16, [2, PIECE_ROWS, WIDTH], kv_tiles.layout)
    # 8 numbers of a row lie together, 8 rows' in different banks: what a warp has of the layout of a product
    acc_layout: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 8, [1, 0])
    acc_buffers = gl.allocate_shared_memory(gl.float32, [2, PIECE_ROWS if ACC_SHARED else 1, WIDTH], acc_layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    fence_async_shared()
    gl.thread_barrier()

    gl.warp_specialize(
        [
            (
                _consumer,
                (
                    k_buffers, v_buffers, q_buffers, acc_buffers, full, empty, queries, tables, work, out, split_stats, split_accs,
                    items, rows, tables_rows, columns, blocks, num_split_results, scale,
                    KV_HEADS, SHARED, WIDTH, BLOCK_SIZE, SPLIT, STAGES, Q_REGS, ACC_SHARED, PINGPONG, PDL, 0,
                ),  # fmt: skip
            ),
            (
                _consumer,
                (
                    k_buffers, v_buffers, q_buffers, acc_buffers, full, empty, queries, tables, work, out, split_stats, split_accs,
                    items, rows, tables_rows, columns, blocks, num_split_results, scale,
                    KV_HEADS, SHARED, WIDTH, BLOCK_SIZE, SPLIT, STAGES, Q_REGS, ACC_SHARED, PINGPONG, PDL, 1,
                ),  # fmt: skip
            ),
            (
                _producer,
                (
                    kv_tiles, k_buffers, v_buffers, full, empty, tables, work, items, rows, tables_rows, columns, blocks,
                    KV_HEADS, WIDTH, BLOCK_SIZE, SPLIT, STAGES, PDL,
                ),  # fmt: skip
            ),
        ],
        [4, 1],
        [CONSUMER_REGS, PRODUCER_REGS],
    )


KV_LAYOUT = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)

OPTIONS = dict(STAGES=3, Q_REGS=True, ACC_SHARED=True, PINGPONG=False, CONSUMER_REGS=240, PRODUCER_REGS=24)


def kv_descriptor(cache: torch.Tensor) -> TensorDescriptor:
    """cache (2, blocks, block size, G, D) bf16 as rows of keys and values of all KV heads."""
    width = cache.shape[-1]
    return TensorDescriptor.from_tensor(cache.view(-1, cache.shape[3] * width), [64, width], KV_LAYOUT)


def attend(
    queries, cache, tables, work, out, split_stats, split_accs, *, shared, lines_in_use=None, programs=None, launch=None,
    compile_only=False, **options,
):  # fmt: skip
    """As octavo's launch of `attend_kernel` for the large tile, with lines of `work` of up to 128 / shared tokens.

    programs: how many to launch, None for one for each (line, KV head). Options: `OPTIONS`.
    """
    _, blocks, block_size, kv_heads, width = cache.shape
    if launch is None:
        launch = {"PDL": True, "launch_pdl": True, "enable_fp_fusion": True}
    scale = math.log2(math.e) / math.sqrt(width)
    items = len(work) * kv_heads
    arguments = (
        queries, kv_descriptor(cache), tables, work, lines_in_use, out, split_stats, split_accs,
        queries.shape[0], tables.shape[0], tables.shape[1], blocks, split_stats.shape[0], len(work), scale,
    )  # fmt: skip
    constants = dict(
        KV_HEADS=kv_heads, SHARED=shared, WIDTH=width, BLOCK_SIZE=block_size, SPLIT=512, **{**OPTIONS, **options},
        num_warps=4, **launch,
    )  # fmt: skip
    grid = (items if programs is None else min(items, programs),)
    if compile_only:
        return attend_kernel.warmup(*arguments, grid=grid, **constants)
    return attend_kernel[grid](*arguments, **constants)

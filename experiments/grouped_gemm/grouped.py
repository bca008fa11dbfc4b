"""Warp-specialised FP8 products of experts for Hopper in Gluon (Triton 3.6): the bits of octavo's `grouped_gemm_kernel`, an experiment.

Channel-scaled format only: x FP8 with one f32 scale a row, w FP8 with one f32 scale a column. As there, weights are the tall side: a consumer
multiplies two pieces of 64 columns with up to 128 rows, sums (64, rows) + (64, rows), by wgmma m64nROWSk32 over K in order into one sum.
The pieces are gate and up of the same 64 outputs, or 128 columns next to each other.

A program is 2 consumers (warps 0-3, the default partition, and 4-7) and a producer (`_producer`, warp 8; or `_gatherer`, warps 8-11, where
rows are gathered, which takes cp.async, as Hopper's bulk copies cannot). Programs are persistent: `_entry` of each turn.

SHARED: both consumers multiply the same rows with columns of their own, 2 x 128 columns of weights an item; a stage is 32 + 16 KiB and serves
both: 3/4 of the bytes from the second cache for a product, which at 128 x 128 (64 bytes a clock and multiprocessor at wgmma's full rate)
is probably more than that cache gives (inferred, not measured). Consumers are as far apart as stages allow, so that the one's epilogue runs beside the other's products.
Else ping-pong: items go to the consumers in turn, a stage is 16 + 16 KiB and serves one. The next item's stages come behind the last of
this one, so that the consumers cannot be in step.

Stages. Step s, counted on through all items of a program, uses stage s % STAGES as its use s // STAGES. Barriers of a stage:
    full    1 arrival (the producer's expect) and all bytes of bulk copies, and where rows are gathered 128 arrivals, of each of the producer's
            threads when its own copies before have ended
    empty   an arrival of each consumer that multiplies it (2 if SHARED, else 1), behind a barrier of its 4 warps that have waited for their
            products

    producer before step s: use s // STAGES - 1 is over, the (s // STAGES)-th completion of `empty` -> parity (s // STAGES & 1) ^ 1, which a
        fresh barrier passes
    consumer before step s: the (s // STAGES + 1)-th completion of `full` -> parity s // STAGES & 1
Nobody is a phase behind or ahead: `full` of a stage's next use needs the producer, which has waited for `empty` of this one, for which each
consumer of this step has waited for `full` of this use. SHARED: every consumer waits for every step. Ping-pong: a consumer skips the
steps of the other's items, and by parity alone could pass on the completion of two uses before. So it waits for its turn first: the other has
then seen `full` of all its steps, which are all before these (an item has at least one step, and steps are loaded in order); the stage's last
use before this one is of the other's item (seen), or of an own item before (seen). And `full` of this use can't be followed by that of the
next before this consumer frees it.
    turn    ping-pong only, one of each consumer, 1 arrival: the other has asked for the last products of its item. Consumer 0's item k (of its
            own, from 0) needs k completions of its barrier -> parity (k & 1) ^ 1; consumer 1's needs k + 1 -> parity k & 1. Each
            completion is waited for before the other can give the next, as that comes behind an item of the other's that waits for
            this consumer's.

A consumer frees step s - 1 behind the wait for its products, when those of step s are issued; the last step of an item when all are done.
No deadlock for STAGES >= 2: the producer waits for a stage whose step s - STAGES is issued; its consumer waits at most for step
s - STAGES + 1 <= s - 1 before it frees that, which is issued. simulate.py runs random interleavings.

Hazards. Sums are not touched between the first product and the wait for the last one, except by products. What an item's epilogue needs, and
the next item's entry in the list, is asked for behind the first step's products, and behind a branch that is always taken, over which
ptxas moves nothing: it would wait for these loads before the products. cp.async writes by the generic proxy and wgmma reads by the async
one: FENCE puts a fence between, in each consumer (a MEMBAR in the machine code); octavo's Triton kernel has none there.
"""

from __future__ import annotations

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

STEP = gl.constexpr(128)
PIECE = gl.constexpr(64)
TILE_ROWS = gl.constexpr(128)
X_BOX = gl.constexpr(32)


@gluon.jit
def _wait_for_previous(PDL: gl.constexpr):
    if PDL:
        gl.inline_asm_elementwise("griddepcontrol.wait; // dummy $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1)
        gl.inline_asm_elementwise(
            "griddepcontrol.launch_dependents; // dummy $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1
        )


@gluon.jit
def _next(stage, phase, STAGES: gl.constexpr):
    stage += 1
    wraps = stage == STAGES
    return gl.where(wraps, 0, stage), gl.where(wraps, phase ^ 1, phase)


@gluon.jit
def _entry(turn, tiles, used, experts, most_tiles, COLUMN_BLOCKS: gl.constexpr, BAND: gl.constexpr):
    """This program's item of a turn: (expert, first row, rows, block of columns), no rows for none. All partitions read the same.

    Programs of one turn work on consecutive items: bands of BAND row tiles x all columns, mostly of one expert, whose weights stay in the
    second cache. Within a turn a program's place moves on, so that tiles of few rows, which may come at regular distances, are not all its.
    """
    programs = gl.num_programs(0)
    item = turn * programs + (gl.program_id(0) + turn * 37) % programs
    band: gl.constexpr = BAND * COLUMN_BLOCKS
    tile = item // band * BAND + item % BAND
    block = item % band // BAND
    entry = tiles + gl.minimum(tile, most_tiles - 1).to(gl.int64) * 3
    expert = gl.load(entry, cache_modifier=".cg")
    first_row = gl.load(entry + 1, cache_modifier=".cg")
    rows = gl.load(entry + 2, cache_modifier=".cg")
    sound = (tile < used) & (expert >= 0) & (expert < experts) & (first_row >= 0) & (rows > 0)
    return expert, first_row, gl.where(sound, rows, 0), block


@gluon.jit
def _load_weights(
    w_tiles, w_buffers, bar, stage, expert, block, step, N: gl.constexpr, GATED: gl.constexpr, PIECES: gl.constexpr
):
    """One step's weights: pieces 2c and 2c + 1 are consumer c's."""
    for piece in gl.static_range(PIECES):
        if GATED:
            w_row = (expert * 2 + piece % 2) * N + (block * (PIECES // 2) + piece // 2) * PIECE
        else:
            w_row = expert * N + (block * PIECES + piece) * PIECE
        tma.async_copy_global_to_shared(w_tiles, [w_row, step * STEP], bar, w_buffers.index(stage * PIECES + piece))


@gluon.jit
def _load_step(
    x_tiles, x_buffers, w_tiles, w_buffers, full, empty, stage, phase, expert, first_row, boxes, block, step,
    N: gl.constexpr, STAGES: gl.constexpr, PIECES: gl.constexpr,
):  # fmt: skip
    bar = full.index(stage)
    w_bytes: gl.constexpr = PIECES * w_tiles.block_type.nbytes
    mbarrier.wait(empty.index(stage), phase)
    for box in gl.static_range(TILE_ROWS // X_BOX):
        mbarrier.expect(bar, w_bytes + (box + 1) * x_tiles.block_type.nbytes, pred=boxes == box + 1)
    _load_weights(w_tiles, w_buffers, bar, stage, expert, block, step, N, False, PIECES)
    for box in gl.static_range(TILE_ROWS // X_BOX):
        tma.async_copy_global_to_shared(
            x_tiles, [first_row + box * X_BOX, step * STEP], bar, x_buffers.index(stage).slice(box * X_BOX, X_BOX),
            pred=box < boxes,
        )  # fmt: skip
    return _next(stage, phase, STAGES)


@gluon.jit
def _producer(
    x, x_tiles, x_buffers, w_tiles, w_buffers, full, empty, order, tiles, used, turns,
    assignments, x_rows, experts, most_tiles, K,
    N: gl.constexpr, TOP_K: gl.constexpr, STAGES: gl.constexpr, PIECES: gl.constexpr, COLUMN_BLOCKS: gl.constexpr, BAND: gl.constexpr,
):  # fmt: skip
    """Rows that lie next to each other, by bulk copies of X_BOX rows, as few as hold the tile's."""
    stage = gl.to_tensor(0)
    phase = gl.to_tensor(1)
    steps = K // STEP
    expert, first_row, rows, block = _entry(0, tiles, used, experts, most_tiles, COLUMN_BLOCKS, BAND)
    for turn in range(turns):
        boxes = gl.minimum((rows + X_BOX - 1) // X_BOX, TILE_ROWS // X_BOX)
        if rows > 0:
            for step in range(steps - 1):
                stage, phase = _load_step(
                    x_tiles, x_buffers, w_tiles, w_buffers, full, empty, stage, phase, expert, first_row, boxes, block, step,
                    N, STAGES, PIECES,
                )  # fmt: skip
        # the next item is looked up before the last step, whose stage is not free for a while
        next_expert, next_first_row, next_rows, next_block = _entry(
            turn + 1, tiles, used, experts, most_tiles, COLUMN_BLOCKS, BAND
        )
        if rows > 0:
            stage, phase = _load_step(
                x_tiles, x_buffers, w_tiles, w_buffers, full, empty, stage, phase, expert, first_row, boxes, block, steps - 1,
                N, STAGES, PIECES,
            )  # fmt: skip
        expert = next_expert
        first_row = next_first_row
        rows = next_rows
        block = next_block


@gluon.jit
def _gather_step(
    at, read, x_buffers, w_tiles, w_buffers, full, empty, stage, phase, expert, block, step,
    N: gl.constexpr, STAGES: gl.constexpr, PIECES: gl.constexpr,
):  # fmt: skip
    bar = full.index(stage)
    mbarrier.wait(empty.index(stage), phase)
    mbarrier.expect(bar, PIECES * w_tiles.block_type.nbytes)
    _load_weights(w_tiles, w_buffers, bar, stage, expert, block, step, N, True, PIECES)
    async_copy.async_copy_global_to_shared(x_buffers.index(stage), at, mask=read[:, None])
    async_copy.mbarrier_arrive(bar, increment_count=False)
    return _next(stage, phase, STAGES)


@gluon.jit
def _gatherer(
    x, x_tiles, x_buffers, w_tiles, w_buffers, full, empty, order, tiles, used, turns,
    assignments, x_rows, experts, most_tiles, K,
    N: gl.constexpr, TOP_K: gl.constexpr, STAGES: gl.constexpr, PIECES: gl.constexpr, COLUMN_BLOCKS: gl.constexpr, BAND: gl.constexpr,
):  # fmt: skip
    """Rows by token, by cp.async of 16 bytes; rows past the tile's are left as they are, and so are the sums made of them."""
    GATHER: gl.constexpr = gl.BlockedLayout([1, 16], [4, 8], [4, 1], [1, 0])
    place = gl.arange(0, TILE_ROWS, gl.SliceLayout(1, GATHER))
    k = gl.arange(0, STEP, gl.SliceLayout(0, GATHER))
    stage = gl.to_tensor(0)
    phase = gl.to_tensor(1)
    steps = K // STEP
    expert, first_row, rows, block = _entry(0, tiles, used, experts, most_tiles, COLUMN_BLOCKS, BAND)
    held = (place < rows) & (first_row + place < assignments)
    assignment = gl.load(order + first_row + place, mask=held, other=-1)
    for turn in range(turns):
        source = assignment // TOP_K
        read = (assignment >= 0) & (assignment < assignments) & (source < x_rows)
        at = x + gl.where(read, source, 0).to(gl.int64)[:, None] * K + k[None, :]
        if rows > 0:
            for step in range(steps - 1):
                stage, phase = _gather_step(
                    at, read, x_buffers, w_tiles, w_buffers, full, empty, stage, phase, expert, block, step, N, STAGES, PIECES
                )
                at += STEP
        # the next item is looked up before the last step, whose stage is not free for a while
        next_expert, next_first_row, next_rows, next_block = _entry(
            turn + 1, tiles, used, experts, most_tiles, COLUMN_BLOCKS, BAND
        )
        held = (place < next_rows) & (next_first_row + place < assignments)
        assignment = gl.load(order + next_first_row + place, mask=held, other=-1)
        if rows > 0:
            stage, phase = _gather_step(
                at, read, x_buffers, w_tiles, w_buffers, full, empty, stage, phase, expert, block, steps - 1, N, STAGES, PIECES
            )
        expert = next_expert
        first_row = next_first_row
        rows = next_rows
        block = next_block


@gluon.jit
def _silu(x):
    """As octavo's `silu`."""
    return x / (1.0 + gl.exp(-x))


@gluon.jit
def _products(
    x_buffers, w_buffers, out_buffer, full, empty, turns_given, x_scale, w_scale, y, order, tiles, used, stage, phase,
    turn, expert, first_row, rows, block, assignments, x_rows, experts, most_tiles, K, w_scale_expert, w_scale_part,
    N: gl.constexpr, GATED: gl.constexpr, TOP_K: gl.constexpr, STAGES: gl.constexpr, PIECES: gl.constexpr,
    COLUMN_BLOCKS: gl.constexpr, BAND: gl.constexpr, FENCE: gl.constexpr, ROWS: gl.constexpr, ME: gl.constexpr,
):  # fmt: skip
    """Up to ROWS rows x this consumer's two pieces of an item, from the stage of the item's first step on. Returns the next turn's item."""
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROWS, 32])
    FLAT: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    LINE: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    first_piece: gl.constexpr = ME * 2 if PIECES == 4 else 0
    steps = K // STEP
    parts: gl.constexpr = 2 if GATED else 1

    zeros = gl.zeros([PIECE, ROWS], gl.float32, SUMS)
    mbarrier.wait(full.index(stage), phase)
    if FENCE:
        fence_async_shared()
    right = x_buffers.index(stage).slice(0, ROWS).permute((1, 0))
    acc_0 = warpgroup_mma(w_buffers.index(stage * PIECES + first_piece), right, zeros, use_acc=False, is_async=True)
    acc_1 = warpgroup_mma(w_buffers.index(stage * PIECES + first_piece + 1), right, zeros, use_acc=False, is_async=True)
    acc_0, acc_1 = warpgroup_mma_wait(2, deps=[acc_0, acc_1])

    place = gl.arange(0, ROWS, LINE)
    flat_place = gl.arange(0, ROWS, gl.SliceLayout(1, FLAT))
    flat_row = first_row + flat_place
    flat_held = (flat_place < rows) & (flat_row < assignments)
    piece_column = gl.arange(0, PIECE, gl.SliceLayout(1, SUMS))
    if GATED:
        first_column = (block * (PIECES // 2) + first_piece // 2) * PIECE
        second = w_scale_part
    else:
        first_column = (block * PIECES + first_piece) * PIECE
        second = w_scale_part * 0 + PIECE
    if K > 0:
        next_expert, next_first_row, next_rows, next_block = _entry(
            turn + 1, tiles, used, experts, most_tiles, COLUMN_BLOCKS, BAND
        )
        row = first_row + place
        held = (place < rows) & (row < assignments)
        if GATED:
            line_assignment = gl.load(order + row, mask=held, other=-1)
            source = line_assignment // TOP_K
            read = held & (line_assignment >= 0) & (line_assignment < assignments) & (source < x_rows)
            source = gl.where(read, source, 0)
        else:
            source = row
            read = held & (row < x_rows)
        line_scale = gl.load(x_scale + source, mask=read, other=0.0)
        scale_at = w_scale + expert.to(gl.int64) * w_scale_expert + first_column + piece_column
        scale_0 = gl.load(scale_at)
        scale_1 = gl.load(scale_at + second)
        assignment = gl.load(order + flat_row, mask=flat_held, other=-1)
    else:
        next_expert = expert
        next_first_row = first_row
        next_rows = gl.to_tensor(0)
        next_block = block
        line_scale = gl.zeros([ROWS], gl.float32, LINE)
        scale_0 = gl.zeros([PIECE], gl.float32, gl.SliceLayout(1, SUMS))
        scale_1 = gl.zeros([PIECE], gl.float32, gl.SliceLayout(1, SUMS))
        assignment = gl.full([ROWS], -1, gl.int32, gl.SliceLayout(1, FLAT))

    for _ in range(1, steps):
        before = stage
        stage, phase = _next(stage, phase, STAGES)
        mbarrier.wait(full.index(stage), phase)
        if FENCE:
            fence_async_shared()
        right = x_buffers.index(stage).slice(0, ROWS).permute((1, 0))
        acc_0 = warpgroup_mma(w_buffers.index(stage * PIECES + first_piece), right, acc_0, is_async=True)
        acc_1 = warpgroup_mma(w_buffers.index(stage * PIECES + first_piece + 1), right, acc_1, is_async=True)
        acc_0, acc_1 = warpgroup_mma_wait(2, deps=[acc_0, acc_1])
        mbarrier.arrive(empty.index(before))
    if PIECES == 2:
        mbarrier.arrive(turns_given.index(1 - ME))
    acc_0, acc_1 = warpgroup_mma_wait(0, deps=[acc_0, acc_1])
    mbarrier.arrive(empty.index(stage))

    token_scale = gl.convert_layout(line_scale, gl.SliceLayout(0, SUMS))[None, :]
    live = flat_held & (assignment >= 0) & (assignment < assignments)
    if GATED:
        live = live & (assignment // TOP_K < x_rows)
        target = flat_row
    else:
        live = live & (flat_row < x_rows)
        target = assignment
    y_at = (y + target.to(gl.int64) * N + first_column)[:, None] + gl.arange(0, PIECE, gl.SliceLayout(0, FLAT))[None, :]
    out_rows = out_buffer.slice(0, ROWS)
    acc_0 = acc_0 * (scale_0[:, None] * token_scale)
    if GATED:
        acc_1 = acc_1 * (scale_1[:, None] * token_scale)
        out_rows.permute((1, 0)).store((_silu(acc_0) * acc_1).to(gl.bfloat16))
        gl.store(y_at, out_rows.load(FLAT), mask=live[:, None])
    else:
        out_rows.permute((1, 0)).store(acc_0.to(gl.bfloat16))
        gl.store(y_at, out_rows.load(FLAT), mask=live[:, None])
        acc_1 = acc_1 * (scale_1[:, None] * token_scale)
        out_rows.permute((1, 0)).store(acc_1.to(gl.bfloat16))
        gl.store(y_at + PIECE, out_rows.load(FLAT), mask=live[:, None])
    return next_expert, next_first_row, next_rows, next_block


@gluon.jit
def _consumer(
    x_buffers, w_buffers, out_buffers, full, empty, turns_given, x_scale, w_scale, y, order, tiles, used, turns,
    assignments, x_rows, experts, most_tiles, K, w_scale_expert, w_scale_part,
    N: gl.constexpr, GATED: gl.constexpr, TOP_K: gl.constexpr, STAGES: gl.constexpr, PIECES: gl.constexpr,
    COLUMN_BLOCKS: gl.constexpr, BAND: gl.constexpr, FENCE: gl.constexpr, MIN_ROWS: gl.constexpr, ME: gl.constexpr,
):  # fmt: skip
    out_buffer = out_buffers.index(ME)
    steps = K // STEP
    done = gl.to_tensor(0)
    items = gl.to_tensor(0)
    expert, first_row, rows, block = _entry(0, tiles, used, experts, most_tiles, COLUMN_BLOCKS, BAND)
    for turn in range(turns):
        if (rows > 0) & ((PIECES == 4) | (items % 2 == ME)):
            stage = done % STAGES
            phase = done // STAGES & 1
            if PIECES == 2:
                mbarrier.wait(turns_given.index(ME), (items // 2 & 1) ^ (1 - ME))
            if rows > TILE_ROWS // 2 or MIN_ROWS > TILE_ROWS // 2:
                next_expert, next_first_row, next_rows, next_block = _products(
                    x_buffers, w_buffers, out_buffer, full, empty, turns_given, x_scale, w_scale, y, order, tiles, used, stage, phase,
                    turn, expert, first_row, rows, block, assignments, x_rows, experts, most_tiles, K, w_scale_expert, w_scale_part,
                    N, GATED, TOP_K, STAGES, PIECES, COLUMN_BLOCKS, BAND, FENCE, TILE_ROWS, ME,
                )  # fmt: skip
            elif rows > TILE_ROWS // 4 or MIN_ROWS > TILE_ROWS // 4:
                next_expert, next_first_row, next_rows, next_block = _products(
                    x_buffers, w_buffers, out_buffer, full, empty, turns_given, x_scale, w_scale, y, order, tiles, used, stage, phase,
                    turn, expert, first_row, rows, block, assignments, x_rows, experts, most_tiles, K, w_scale_expert, w_scale_part,
                    N, GATED, TOP_K, STAGES, PIECES, COLUMN_BLOCKS, BAND, FENCE, TILE_ROWS // 2, ME,
                )  # fmt: skip
            else:
                next_expert, next_first_row, next_rows, next_block = _products(
                    x_buffers, w_buffers, out_buffer, full, empty, turns_given, x_scale, w_scale, y, order, tiles, used, stage, phase,
                    turn, expert, first_row, rows, block, assignments, x_rows, experts, most_tiles, K, w_scale_expert, w_scale_part,
                    N, GATED, TOP_K, STAGES, PIECES, COLUMN_BLOCKS, BAND, FENCE, TILE_ROWS // 4, ME,
                )  # fmt: skip
        else:
            next_expert, next_first_row, next_rows, next_block = _entry(
                turn + 1, tiles, used, experts, most_tiles, COLUMN_BLOCKS, BAND
            )
        done += gl.where(rows > 0, steps, 0)
        items += gl.where(rows > 0, 1, 0)
        expert = next_expert
        first_row = next_first_row
        rows = next_rows
        block = next_block


@gluon.jit(do_not_specialize=["assignments", "x_rows", "experts", "most_tiles"])
def grouped_kernel(
    x, x_tiles, x_scale, w_tiles, w_scale, y, order, tiles, num_tiles,
    assignments, x_rows, experts, most_tiles, K, w_scale_expert, w_scale_part,
    N: gl.constexpr, GATED: gl.constexpr, TOP_K: gl.constexpr, STAGES: gl.constexpr, SHARED: gl.constexpr, BAND: gl.constexpr,
    MIN_ROWS: gl.constexpr, FENCE: gl.constexpr, CONSUMER_REGS: gl.constexpr, PRODUCER_REGS: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    """Any grid. GATED: row r is x[order[r] // TOP_K] and goes to y[r], silu(gate) * up; else it is x[r] and goes to y[order[r]]."""
    PIECES: gl.constexpr = 4 if SHARED else 2
    COLUMN_BLOCKS: gl.constexpr = N // (PIECE * (PIECES // 2 if GATED else PIECES))
    gl.static_assert(STAGES >= 2)
    w_buffers = gl.allocate_shared_memory(gl.float8e4nv, [STAGES * PIECES, PIECE, STEP], w_tiles.layout)
    x_buffers = gl.allocate_shared_memory(gl.float8e4nv, [STAGES, TILE_ROWS, STEP], w_tiles.layout)
    out_layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    out_buffers = gl.allocate_shared_memory(gl.bfloat16, [2, TILE_ROWS, PIECE], out_layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    turns_given = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    if not SHARED:
        mbarrier.init(turns_given.index(0), count=1)
        mbarrier.init(turns_given.index(1), count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=129 if GATED else 1)
        mbarrier.init(empty.index(stage), count=2 if SHARED else 1)
    fence_async_shared()
    gl.thread_barrier()

    _wait_for_previous(PDL)
    used = gl.minimum(gl.load(num_tiles, cache_modifier=".cg"), most_tiles)
    items = (used + BAND - 1) // BAND * (BAND * COLUMN_BLOCKS)
    turns = (items + gl.num_programs(0) - 1) // gl.num_programs(0)

    gl.warp_specialize(
        [
            (
                _consumer,
                (
                    x_buffers, w_buffers, out_buffers, full, empty, turns_given, x_scale, w_scale, y, order, tiles, used, turns,
                    assignments, x_rows, experts, most_tiles, K, w_scale_expert, w_scale_part,
                    N, GATED, TOP_K, STAGES, PIECES, COLUMN_BLOCKS, BAND, FENCE and GATED, MIN_ROWS, 0,
                ),  # fmt: skip
            ),
            (
                _consumer,
                (
                    x_buffers, w_buffers, out_buffers, full, empty, turns_given, x_scale, w_scale, y, order, tiles, used, turns,
                    assignments, x_rows, experts, most_tiles, K, w_scale_expert, w_scale_part,
                    N, GATED, TOP_K, STAGES, PIECES, COLUMN_BLOCKS, BAND, FENCE and GATED, MIN_ROWS, 1,
                ),  # fmt: skip
            ),
            (
                _gatherer if GATED else _producer,
                (
                    x, x_tiles, x_buffers, w_tiles, w_buffers, full, empty, order, tiles, used, turns,
                    assignments, x_rows, experts, most_tiles, K,
                    N, TOP_K, STAGES, PIECES, COLUMN_BLOCKS, BAND,
                ),  # fmt: skip
            ),
        ],
        [4, 4 if GATED else 1],
        [CONSUMER_REGS, PRODUCER_REGS],
    )


LAYOUT = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8, rank=2)

OPTIONS = {
    True: dict(STAGES=4, SHARED=True, BAND=4, MIN_ROWS=32, FENCE=True, CONSUMER_REGS=216, PRODUCER_REGS=72),
    False: dict(STAGES=4, SHARED=True, BAND=4, MIN_ROWS=32, FENCE=True, CONSUMER_REGS=240, PRODUCER_REGS=24),
}
"""By whether the product is gated. STAGES: 2 to 4 where SHARED, else 2 to 6."""


def _launch(x, w, permutation, gated, top_k, out, assignments, programs, launch, compile_only, options):
    columns, K = out.shape[1], x.data.shape[1]
    experts = w.data.shape[0]
    options = {**OPTIONS[gated], **options}
    width = (64 if gated else 128) * (2 if options["SHARED"] else 1)
    if K % 128 or columns % width:
        raise ValueError(f"K {K} must be a multiple of 128, columns {columns} of {width}")
    if launch is None:
        launch = {"PDL": True, "launch_pdl": True, "enable_fp_fusion": True}
    if programs is None:
        programs = torch.cuda.get_device_properties(out.device).multi_processor_count
    w_tiles = TensorDescriptor.from_tensor(w.data.view(-1, K), [64, 128], LAYOUT)
    x_tiles = None if gated else TensorDescriptor.from_tensor(x.data, [32, 128], LAYOUT)
    arguments = (
        x.data, x_tiles, x.scale, w_tiles, w.scale, out, permutation.order, permutation.tiles, permutation.num_tiles,
        permutation.assignments, x.data.shape[0], experts, permutation.tiles.shape[0], K, w.scale.shape[1], w.scale.shape[1] // 2,
    )  # fmt: skip
    constants = dict(N=columns, GATED=gated, TOP_K=top_k, **options, num_warps=4, **launch)
    if compile_only:
        return grouped_kernel.warmup(*arguments, grid=(programs,), **constants)
    if assignments and len(x.data):
        grouped_kernel[(programs,)](*arguments, **constants)
    return out


def grouped_gemm_swiglu(
    x, w, permutation, *, top_k, out, assignments, tile=None, programs=None, launch=None, compile_only=False, **options
):
    """As octavo's, with a permutation of tile_rows=128, which is not checked (rows of a tile past 128 would not be written); `tile` is not
    looked at. programs: how many to launch, None for one on each multiprocessor. Options: `OPTIONS`."""
    return _launch(x, w, permutation, True, top_k, out, assignments, programs, launch, compile_only, options)


def grouped_gemm(x, w, permutation, *, out, assignments, tile=None, programs=None, launch=None, compile_only=False, **options):
    """As octavo's, with a permutation of tile_rows=128; `tile` is not looked at."""
    return _launch(x, w, permutation, False, 1, out, assignments, programs, launch, compile_only, options)

"""Warp-specialised FP8 products of experts with scales of 128 x 128 blocks for Hopper in Gluon (Triton 3.6), an experiment: the bits of
octavo's `grouped_gemm_kernel` for Fp8Block.

x FP8 with one f32 scale for each row and 128 columns of K, w FP8 with one for each block of 128 x 128. A step is 128 of K: its products are made
from zero by four wgmma m64n128k32, and sums += products * (scale of the row * scale of the block), one rounding for the scales' product and
one fused multiply-add, from sums of zero on: octavo's arithmetic (same_arithmetic.py compares the PTX). Unlike there, rows of x are wgmma's
left side and weights its right one: a thread has two rows, and so two scales for its 64 products, where it had 32. That wgmma gives the same
bits for x w^T as for (w x^T)^T is for on_card.py to check; docs/kernels_log.md has equal bits of narrow tiles with rows on that side.

A program is 2 consumers (warps 0-3, the default partition, and 4-7) and a producer (warp 8, or warps 8-11 where rows are gathered, by cp.async,
as Hopper's bulk copies cannot). Programs are persistent: `_entry` of each turn. An item is up to 128 rows x 2 parts of 128 columns of weights:
gate and up of the same 128 outputs, or 256 columns next to each other. Consumer c has rows 64c to 64c + 63 and both parts: 128 registers of sums
and 64 of one step's products of one part, which are made, waited for and added part by part; one consumer adds while the other multiplies. A step
is 48 KiB from the second cache for 2 x 128 x 256 x 128 operations, 3/4 of the bytes of a block of 128 x 128, whose registers would
let a consumer issue products before it adds those before.

`_here` and the branch behind it keep additions of part 0 before the products of part 1: LLVM sinks them past it, and ptxas then takes two
sets of products and spills.

Stages. Step s, counted on through all items of a program, uses stage s % STAGES as its use s // STAGES. Barriers of a stage:
    full    1 arrival (the producer's expect) and all bytes of bulk copies, and an arrival of each of the producer's threads when its own
            cp.async before have ended: of scales (4 bytes a row, 2 of weights), and of gathered rows
    empty   an arrival of each consumer, behind a barrier of its 4 warps that have waited for their products and read scales

    producer before step s: use s // STAGES - 1 is over, the (s // STAGES)-th completion of `empty` -> parity (s // STAGES & 1) ^ 1, which a
        fresh barrier passes
    consumer before step s: the (s // STAGES + 1)-th completion of `full` -> parity s // STAGES & 1
Nobody is a phase behind or ahead: `full` of a stage's next use needs the producer, which has waited for `empty` of this one, for which both
consumers have waited for `full` of this use. Both wait for every step and free it, if without products: consumer 1 where a tile has at most 64
rows. A consumer waits for the next step of an item while products of this one are made, which it frees when they are: no deadlock for
STAGES >= 2.
    ahead   SKEW > 0: an arrival of consumer 0 when the last products of step SKEW - 1 of each item are issued, for which consumer 1 waits before the item (the
            items + 1-th completion -> parity items & 1) where steps >= STAGES: so the one's epilogue runs beside the other's products.
            Consumer 0 cannot give the next before consumer 1 has begun this item, for which it needs stages that that has to free
            (steps + SKEW > STAGES); and gives this one, as till then it needs no stage of this item twice (SKEW < STAGES). Behind an item that
            consumer 1 passed over it may take the completion before last for this one; then it only starts early.
simulate.py runs random interleavings.

Hazards. Products are not touched between issue and wait. What an item's epilogue needs, and the next item's entry in the list, is asked for behind
the first products. cp.async writes by the generic proxy and wgmma reads by the async one: FENCE puts a fence between, in each consumer;
octavo's Triton kernel has none there.
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
TILE_ROWS = gl.constexpr(128)
HALF = gl.constexpr(64)
"""Rows of a consumer."""
PART = gl.constexpr(128)
"""Columns of weights that are multiplied at a time."""
X_BOX = gl.constexpr(64)


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
def _silu(x):
    """As octavo's `silu`."""
    return x / (1.0 + gl.exp(-x))


@gluon.jit
def _load_step(
    x_tiles, x_buffers, x_scale_buffers, w_tiles, w_buffers, w_scale_buffers, full, empty, stage, phase,
    at, read, x_scale_at, line_read, w_scale_at, first_row, boxes, w_row, step,
    SECOND: gl.constexpr, GATED: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    bar = full.index(stage)
    w_bytes: gl.constexpr = 2 * w_tiles.block_type.nbytes
    mbarrier.wait(empty.index(stage), phase)
    if GATED:
        mbarrier.expect(bar, w_bytes)
    else:
        for box in gl.static_range(TILE_ROWS // X_BOX):
            mbarrier.expect(bar, w_bytes + (box + 1) * x_tiles.block_type.nbytes, pred=boxes == box + 1)
    for part in gl.static_range(2):
        tma.async_copy_global_to_shared(w_tiles, [w_row + part * SECOND, step * STEP], bar, w_buffers.index(stage * 2 + part))
    if GATED:
        async_copy.async_copy_global_to_shared(x_buffers.index(stage), at + step * STEP, mask=read[:, None])
    else:
        for box in gl.static_range(TILE_ROWS // X_BOX):
            tma.async_copy_global_to_shared(
                x_tiles, [first_row + box * X_BOX, step * STEP], bar, x_buffers.index(stage).slice(box * X_BOX, X_BOX),
                pred=box < boxes,
            )  # fmt: skip
    async_copy.async_copy_global_to_shared(x_scale_buffers.index(stage), x_scale_at + step, mask=line_read)
    async_copy.async_copy_global_to_shared(w_scale_buffers.index(stage), w_scale_at + step)
    async_copy.mbarrier_arrive(bar, increment_count=False)
    return _next(stage, phase, STAGES)


@gluon.jit
def _rows(order, first_row, rows, assignments, x_rows, GATED: gl.constexpr, TOP_K: gl.constexpr, LAYOUT: gl.constexpr):
    """Which row of x is each of the tile's, and whether it is to be read."""
    place = gl.arange(0, TILE_ROWS, LAYOUT)
    row = first_row + place
    read = (place < rows) & (row < assignments)
    if GATED:
        assignment = gl.load(order + row, mask=read, other=-1)
        source = assignment // TOP_K
        read = (assignment >= 0) & (assignment < assignments)
    else:
        source = row
    read = read & (source < x_rows)
    return gl.where(read, source, 0), read


@gluon.jit
def _producer(
    x, x_tiles, x_scale, x_buffers, x_scale_buffers, w_tiles, w_scale, w_buffers, w_scale_buffers, full, empty, order, tiles, used, turns,
    assignments, x_rows, experts, most_tiles, K,
    N: gl.constexpr, GATED: gl.constexpr, TOP_K: gl.constexpr, STAGES: gl.constexpr, COLUMN_BLOCKS: gl.constexpr, BAND: gl.constexpr, WARPS: gl.constexpr,
):  # fmt: skip
    """Weights by bulk copies, rows by bulk copies of X_BOX rows or, where they are gathered, by cp.async of 16 bytes, scales by cp.async of 4.

    Rows past the tile's are left as they are, and so are the sums made of them.
    """
    GATHER: gl.constexpr = gl.BlockedLayout([1, 16], [4, 8], [WARPS, 1], [1, 0])
    LINE: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    SECOND: gl.constexpr = N if GATED else PART
    k = gl.arange(0, STEP, gl.SliceLayout(0, GATHER))
    both = gl.arange(0, 2, LINE)
    stage = gl.to_tensor(0)
    phase = gl.to_tensor(1)
    steps = K // STEP
    expert, first_row, rows, block = _entry(0, tiles, used, experts, most_tiles, COLUMN_BLOCKS, BAND)
    line_source, line_read = _rows(order, first_row, rows, assignments, x_rows, GATED, TOP_K, LINE)
    for turn in range(turns):
        boxes = gl.minimum((rows + X_BOX - 1) // X_BOX, TILE_ROWS // X_BOX)
        x_scale_at = x_scale + line_source.to(gl.int64) * steps
        if GATED:
            w_row = expert * 2 * N + block * PART
            source = gl.convert_layout(gl.where(line_read, line_source, -1), gl.SliceLayout(1, GATHER))
            read = source >= 0
            source = gl.where(read, source, 0)
            at = x + source.to(gl.int64)[:, None] * K + k[None, :]
            reads = read
        else:
            w_row = expert * N + block * (2 * PART)
            at = x
            reads = line_read
        # N is a multiple of PART: rows of scales are rows of weights / PART
        w_scale_at = w_scale + (w_row // PART + both * (SECOND // PART)).to(gl.int64) * steps
        if rows > 0:
            for step in range(steps - 1):
                stage, phase = _load_step(
                    x_tiles, x_buffers, x_scale_buffers, w_tiles, w_buffers, w_scale_buffers, full, empty, stage, phase,
                    at, reads, x_scale_at, line_read, w_scale_at, first_row, boxes, w_row, step, SECOND, GATED, STAGES,
                )  # fmt: skip
        # the next item is looked up before the last step, whose stage is not free for a while
        next_expert, next_first_row, next_rows, next_block = _entry(
            turn + 1, tiles, used, experts, most_tiles, COLUMN_BLOCKS, BAND
        )
        next_line_source, next_line_read = _rows(order, next_first_row, next_rows, assignments, x_rows, GATED, TOP_K, LINE)
        if rows > 0:
            stage, phase = _load_step(
                x_tiles, x_buffers, x_scale_buffers, w_tiles, w_buffers, w_scale_buffers, full, empty, stage, phase,
                at, reads, x_scale_at, line_read, w_scale_at, first_row, boxes, w_row, steps - 1, SECOND, GATED, STAGES,
            )  # fmt: skip
        expert = next_expert
        first_row = next_first_row
        rows = next_rows
        block = next_block
        line_source = next_line_source
        line_read = next_line_read


@gluon.jit
def _here(x):
    """x, computed here and not later, as LLVM would, for whom an addition may sink to where it is next needed."""
    return gl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=False, pack=1)


@gluon.jit
def _scale(x_scale_buffers, w_scale_buffers, stage, part: gl.constexpr, LAYOUT: gl.constexpr, ME: gl.constexpr):
    """(HALF,) product of a step's scales, each row's own and the weight block's."""
    rows = x_scale_buffers.index(stage).slice(ME * HALF, HALF).load(LAYOUT)
    return rows * w_scale_buffers.index(stage).slice(part, 1).load(LAYOUT)


@gluon.jit
def _products(
    x_buffers, x_scale_buffers, w_buffers, w_scale_buffers, out_buffer, full, empty, ahead, y, order, tiles, used, stage, phase,
    turn, expert, first_row, rows, block, assignments, x_rows, experts, most_tiles, K,
    N: gl.constexpr, GATED: gl.constexpr, TOP_K: gl.constexpr, STAGES: gl.constexpr,
    COLUMN_BLOCKS: gl.constexpr, BAND: gl.constexpr, FENCE: gl.constexpr, SKEW: gl.constexpr, ME: gl.constexpr,
):  # fmt: skip
    """This consumer's HALF rows x both parts of an item, from the stage of the item's first step on. Returns the next turn's item."""
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, PART, 32])
    ROW: gl.constexpr = gl.SliceLayout(1, SUMS)
    FLAT: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    LINE: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    steps = K // STEP

    zeros = gl.zeros([HALF, PART], gl.float32, SUMS)
    sums_0 = zeros
    sums_1 = zeros
    next_expert = expert
    next_first_row = first_row
    next_rows = gl.to_tensor(0)
    next_block = block
    row = first_row + ME * HALF + gl.arange(0, HALF, LINE)
    held = (ME * HALF + gl.arange(0, HALF, LINE) < rows) & (row < assignments)
    assignment = gl.full([HALF], -1, gl.int32, LINE)
    mbarrier.wait(full.index(stage), phase)
    if FENCE:
        fence_async_shared()
    for step in range(steps):
        left = x_buffers.index(stage).slice(ME * HALF, HALF)
        fresh = warpgroup_mma(left, w_buffers.index(stage * 2).permute((1, 0)), zeros, use_acc=False, is_async=True)
        scale = _scale(x_scale_buffers, w_scale_buffers, stage, 0, ROW, ME)
        if step == 0:
            next_expert, next_first_row, next_rows, next_block = _entry(
                turn + 1, tiles, used, experts, most_tiles, COLUMN_BLOCKS, BAND
            )
            assignment = gl.load(order + row, mask=held, other=-1)
        fresh = warpgroup_mma_wait(0, deps=[fresh])
        sums_0 = _here(sums_0 + fresh * scale[:, None])
        if most_tiles > 0:  # always; ptxas moves nothing over a branch, and so makes do with one set of fresh products
            fresh = warpgroup_mma(left, w_buffers.index(stage * 2 + 1).permute((1, 0)), zeros, use_acc=False, is_async=True)
            scale = _scale(x_scale_buffers, w_scale_buffers, stage, 1, ROW, ME)
            if SKEW > 0 and ME == 0:
                if step == SKEW - 1:
                    mbarrier.arrive(ahead)
            next_stage, next_phase = _next(stage, phase, STAGES)
            if step + 1 < steps:
                mbarrier.wait(full.index(next_stage), next_phase)
                if FENCE:
                    fence_async_shared()
            fresh = warpgroup_mma_wait(0, deps=[fresh])
            mbarrier.arrive(empty.index(stage))
            sums_1 += fresh * scale[:, None]
            stage = next_stage
            phase = next_phase

    live = held & (assignment >= 0) & (assignment < assignments)
    if GATED:
        live = live & (assignment // TOP_K < x_rows)
        target = row
        column = block * PART
    else:
        live = live & (row < x_rows)
        target = assignment
        column = block * (2 * PART)
    # to the threads that write these rows, by memory that outputs take afterwards
    targets = out_buffer._reinterpret(gl.int32, [HALF], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    targets.store(gl.where(live, target, -1))
    target = targets.load(gl.SliceLayout(1, FLAT))
    y_at = (y + target.to(gl.int64) * N + column)[:, None] + gl.arange(0, PART, gl.SliceLayout(0, FLAT))[None, :]
    mask = (target >= 0)[:, None]
    if GATED:
        out_buffer.store((_silu(sums_0) * sums_1).to(gl.bfloat16))
        gl.store(y_at, out_buffer.load(FLAT), mask=mask)
    else:
        out_buffer.store(sums_0.to(gl.bfloat16))
        gl.store(y_at, out_buffer.load(FLAT), mask=mask)
        out_buffer.store(sums_1.to(gl.bfloat16))
        gl.store(y_at + PART, out_buffer.load(FLAT), mask=mask)
    return next_expert, next_first_row, next_rows, next_block


@gluon.jit
def _consumer(
    x_buffers, x_scale_buffers, w_buffers, w_scale_buffers, out_buffers, full, empty, ahead, y, order, tiles, used, turns,
    assignments, x_rows, experts, most_tiles, K,
    N: gl.constexpr, GATED: gl.constexpr, TOP_K: gl.constexpr, STAGES: gl.constexpr,
    COLUMN_BLOCKS: gl.constexpr, BAND: gl.constexpr, FENCE: gl.constexpr, SKEW: gl.constexpr, ME: gl.constexpr,
):  # fmt: skip
    out_buffer = out_buffers.index(ME)
    steps = K // STEP
    done = gl.to_tensor(0)
    items = gl.to_tensor(0)
    expert, first_row, rows, block = _entry(0, tiles, used, experts, most_tiles, COLUMN_BLOCKS, BAND)
    for turn in range(turns):
        stage = done % STAGES
        phase = done // STAGES & 1
        if rows > ME * HALF:
            if SKEW > 0 and ME == 1:
                if steps >= STAGES:
                    mbarrier.wait(ahead, items & 1)
            next_expert, next_first_row, next_rows, next_block = _products(
                x_buffers, x_scale_buffers, w_buffers, w_scale_buffers, out_buffer, full, empty, ahead, y, order, tiles, used, stage, phase,
                turn, expert, first_row, rows, block, assignments, x_rows, experts, most_tiles, K,
                N, GATED, TOP_K, STAGES, COLUMN_BLOCKS, BAND, FENCE, SKEW, ME,
            )  # fmt: skip
        else:
            next_expert, next_first_row, next_rows, next_block = _entry(
                turn + 1, tiles, used, experts, most_tiles, COLUMN_BLOCKS, BAND
            )
            if ME > 0:
                if rows > 0:  # all rows are the other's: the stages are let go
                    for _ in range(steps):
                        mbarrier.wait(full.index(stage), phase)
                        mbarrier.arrive(empty.index(stage))
                        stage, phase = _next(stage, phase, STAGES)
        done += gl.where(rows > 0, steps, 0)
        items += gl.where(rows > 0, 1, 0)
        expert = next_expert
        first_row = next_first_row
        rows = next_rows
        block = next_block


@gluon.jit(do_not_specialize=["assignments", "x_rows", "experts", "most_tiles"])
def grouped_block_kernel(
    x, x_tiles, x_scale, w_tiles, w_scale, y, order, tiles, num_tiles,
    assignments, x_rows, experts, most_tiles, K,
    N: gl.constexpr, GATED: gl.constexpr, TOP_K: gl.constexpr, STAGES: gl.constexpr, BAND: gl.constexpr,
    FENCE: gl.constexpr, SKEW: gl.constexpr, CONSUMER_REGS: gl.constexpr, PRODUCER_REGS: gl.constexpr, PRODUCER_WARPS: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    """Any grid. GATED: row r is x[order[r] // TOP_K] and goes to y[r], silu(gate) * up; else it is x[r] and goes to y[order[r]]."""
    COLUMN_BLOCKS: gl.constexpr = N // (PART if GATED else 2 * PART)
    w_buffers = gl.allocate_shared_memory(gl.float8e4nv, [STAGES * 2, PART, STEP], w_tiles.layout)
    x_buffers = gl.allocate_shared_memory(gl.float8e4nv, [STAGES, TILE_ROWS, STEP], w_tiles.layout)
    out_layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    out_buffers = gl.allocate_shared_memory(gl.bfloat16, [2, HALF, PART], out_layout)
    plain: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    x_scale_buffers = gl.allocate_shared_memory(gl.float32, [STAGES, TILE_ROWS], plain)
    w_scale_buffers = gl.allocate_shared_memory(gl.float32, [STAGES, 2], plain)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    ahead = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(ahead, count=1)
    gl.static_assert(STAGES >= 2 and SKEW < STAGES)
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1 + 32 * PRODUCER_WARPS)
        mbarrier.init(empty.index(stage), count=2)
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
                    x_buffers, x_scale_buffers, w_buffers, w_scale_buffers, out_buffers, full, empty, ahead, y, order, tiles, used, turns,
                    assignments, x_rows, experts, most_tiles, K,
                    N, GATED, TOP_K, STAGES, COLUMN_BLOCKS, BAND, FENCE and GATED, SKEW, 0,
                ),  # fmt: skip
            ),
            (
                _consumer,
                (
                    x_buffers, x_scale_buffers, w_buffers, w_scale_buffers, out_buffers, full, empty, ahead, y, order, tiles, used, turns,
                    assignments, x_rows, experts, most_tiles, K,
                    N, GATED, TOP_K, STAGES, COLUMN_BLOCKS, BAND, FENCE and GATED, SKEW, 1,
                ),  # fmt: skip
            ),
            (
                _producer,
                (
                    x, x_tiles, x_scale, x_buffers, x_scale_buffers, w_tiles, w_scale, w_buffers, w_scale_buffers, full, empty,
                    order, tiles, used, turns, assignments, x_rows, experts, most_tiles, K,
                    N, GATED, TOP_K, STAGES, COLUMN_BLOCKS, BAND, PRODUCER_WARPS,
                ),  # fmt: skip
            ),
        ],
        [4, PRODUCER_WARPS],
        [CONSUMER_REGS, PRODUCER_REGS],
    )


LAYOUT = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8, rank=2)

OPTIONS = {
    True: dict(STAGES=4, BAND=4, FENCE=True, SKEW=2, CONSUMER_REGS=216, PRODUCER_REGS=72, PRODUCER_WARPS=4),
    False: dict(STAGES=4, BAND=4, FENCE=True, SKEW=2, CONSUMER_REGS=232, PRODUCER_REGS=40, PRODUCER_WARPS=1),
}
"""By whether the product is gated. STAGES: 2 to 4. SKEW: less than STAGES. CONSUMER_REGS: of consumer 1; consumer 0 has 504 less both."""


def _launch(x, w, permutation, gated, top_k, out, assignments, programs, launch, compile_only, options):
    columns, K = out.shape[1], x.data.shape[1]
    experts = w.data.shape[0]
    options = {**OPTIONS[gated], **options}
    width = 128 if gated else 256
    if K % 128 or columns % width:
        raise ValueError(f"K {K} must be a multiple of 128, columns {columns} of {width}")
    if launch is None:
        launch = {"PDL": True, "launch_pdl": True, "enable_fp_fusion": True}
    if programs is None:
        programs = torch.cuda.get_device_properties(out.device).multi_processor_count
    w_tiles = TensorDescriptor.from_tensor(w.data.view(-1, K), [128, 128], LAYOUT)
    x_tiles = None if gated else TensorDescriptor.from_tensor(x.data, [64, 128], LAYOUT)
    arguments = (
        x.data, x_tiles, x.scale, w_tiles, w.scale, out, permutation.order, permutation.tiles, permutation.num_tiles,
        permutation.assignments, x.data.shape[0], experts, permutation.tiles.shape[0], K,
    )  # fmt: skip
    constants = dict(N=columns, GATED=gated, TOP_K=top_k, **options, num_warps=4, **launch)
    if compile_only:
        return grouped_block_kernel.warmup(*arguments, grid=(programs,), **constants)
    if assignments and len(x.data):
        grouped_block_kernel[(programs,)](*arguments, **constants)
    return out


def grouped_gemm_swiglu(
    x, w, permutation, *, top_k, out, assignments, tile=None, programs=None, launch=None, compile_only=False, **options
):
    """As octavo's for Fp8Block, with a permutation of tile_rows=128, which is not checked (rows of a tile past 128 would not be written);
    `tile` is not looked at. programs: how many to launch, None for one on each multiprocessor. Options: `OPTIONS`."""
    return _launch(x, w, permutation, True, top_k, out, assignments, programs, launch, compile_only, options)


def grouped_gemm(x, w, permutation, *, out, assignments, tile=None, programs=None, launch=None, compile_only=False, **options):
    """As octavo's for Fp8Block, with a permutation of tile_rows=128; `tile` is not looked at."""
    return _launch(x, w, permutation, False, 1, out, assignments, programs, launch, compile_only, options)

"""Products of experts with scales of blocks of 128 x 128, persistent: the arithmetic of `kernel.py`, and so its bits.

x has one f32 scale for each row and 128 columns of K, W one for each block. The products of a step of 128 are made from zero by four wgmma
m64n128k32, and sums += products * (scale of the row * scale of the block): one rounding for the scales' product, and one fused multiply-add. Rows of x
are wgmma's left side here: a thread has two of them, and so two scales for its 64 products, where it would have 32. x w^T has the bits of
(w x^T)^T, which tests on the device compare.

The gated product is rounded to what the product behind it reads, by the rule of `quantize`: of a row, an item has the 128 columns that share a scale,
all with one consumer, in four threads next to each other.

An item is up to 128 rows x 2 parts of 128 columns: gate and up of the same outputs, or columns next to each other. Consumer c has rows 64c to
64c + 63 and both parts: 128 registers of sums, and 64 of one step's products of one part, which are made, waited for and added part by part; one
consumer adds while the other multiplies. A step is 48 KiB from the second cache for 128 x 256 sums, 3/4 of the bytes of tiles of 128 x 128.

Stages and their barriers are those of `channel_kernel.py`, but that

    full    has an arrival of each of the producer's threads too, when its own copies before have ended: scales come by cp.async of 4 bytes, and
            rows that are gathered by cp.async of 16, as bulk copies cannot gather
    empty   is given when the consumer's threads have also read scales

and that a consumer waits for the next step of an item while products of this one are made, and frees this one when they are: the wait is for a step
that the producer has issued, or will without this stage, for STAGES >= 2. Both consumers wait for every step and free it, consumer 1 without
products where a tile has at most 64 rows.

Hazards. Products are not touched between issue and wait. cp.async writes by the generic proxy and wgmma reads by the async one, so a fence stands
between in each consumer where rows are gathered; scales are read by the generic proxy, which wrote them.
"""

from __future__ import annotations

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

from octavo.ops.device import silu, wait_for_previous
from octavo.ops.experts.grouped_gemm.persistent_device import (
    STAGES,
    STEP,
    TILE_ROWS,
    load_assignments,
    load_item,
    load_num_turns,
    target_rows,
)
from octavo.ops.persistent_device import next_stage, sync_threads
from octavo.ops.quantize.kernel import round_groups

HALF = gl.constexpr(64)
"""Rows of a consumer, and of one bulk copy."""
PART = gl.constexpr(128)
"""Columns of weights of one product."""


@gluon.jit
def _load_step(
    x_tiles, x_buffers, x_scale_buffers, w_tiles, w_buffers, w_scale_buffers, full, empty, stage, phase,
    at, gathered, x_scale_at, read, w_scale_at, first_row, halves, w_row, step, SECOND: gl.constexpr, GATED: gl.constexpr,
):  # fmt: skip
    bar = full.index(stage)
    w_bytes: gl.constexpr = 2 * w_tiles.block_type.nbytes
    mbarrier.wait(empty.index(stage), phase)
    if GATED:
        mbarrier.expect(bar, w_bytes)
    else:
        for half in gl.static_range(2):
            mbarrier.expect(bar, w_bytes + (half + 1) * x_tiles.block_type.nbytes, pred=halves == half + 1)
    for part in gl.static_range(2):
        tma.async_copy_global_to_shared(
            w_tiles, [w_row + part * SECOND, step * STEP], bar, w_buffers.index(stage * 2 + part)
        )
    if GATED:
        async_copy.async_copy_global_to_shared(x_buffers.index(stage), at + step * STEP, mask=gathered[:, None])
    else:
        for half in gl.static_range(2):
            tma.async_copy_global_to_shared(
                x_tiles, [first_row + half * HALF, step * STEP], bar, x_buffers.index(stage).slice(half * HALF, HALF),
                pred=half < halves,
            )  # fmt: skip
    async_copy.async_copy_global_to_shared(x_scale_buffers.index(stage), x_scale_at + step, mask=read)
    async_copy.async_copy_global_to_shared(w_scale_buffers.index(stage), w_scale_at + step)
    async_copy.mbarrier_arrive(bar, increment_count=False)
    return next_stage(stage, phase, STAGES)


@gluon.jit
def _gathered_rows(assignment, assignments, x_rows, TOP_K: gl.constexpr):
    """The row of x of each assignment, 0 where there is none to be read, and whether there is."""
    source = assignment // TOP_K
    read = (assignment >= 0) & (assignment < assignments) & (source < x_rows)
    return gl.where(read, source, 0), read


@gluon.jit
def _sources(
    order, first_row, rows, assignments, x_rows, GATED: gl.constexpr, TOP_K: gl.constexpr, LAYOUT: gl.constexpr
):
    """The row of x of each of the tile's rows, and whether it is to be read."""
    place = gl.arange(0, TILE_ROWS, LAYOUT)
    row = first_row + place
    if GATED:
        assignment = load_assignments(order, row, place, rows, assignments)
        source, read = _gathered_rows(assignment, assignments, x_rows, TOP_K)
    else:
        read = (place < rows) & (row < x_rows)
        source = gl.where(read, row, 0)
    return source, read


@gluon.jit
def _producer(
    x, x_tiles, x_scale, x_buffers, x_scale_buffers, w_tiles, w_scale, w_buffers, w_scale_buffers, full, empty, order, tiles, used, turns,
    assignments, x_rows, experts, most_tiles, K,
    N: gl.constexpr, GATED: gl.constexpr, TOP_K: gl.constexpr, COLUMN_BLOCKS: gl.constexpr, WARPS: gl.constexpr,
):  # fmt: skip
    """Weights by bulk copies, rows by bulk copies or, where they are gathered, by cp.async of 16 bytes, scales by cp.async of 4.

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
    expert, first_row, rows, block = load_item(0, tiles, used, experts, assignments, most_tiles, COLUMN_BLOCKS)
    source, read = _sources(order, first_row, rows, assignments, x_rows, GATED, TOP_K, LINE)
    for turn in range(turns):
        halves = (rows + HALF - 1) // HALF
        x_scale_at = x_scale + source.to(gl.int64) * steps
        if GATED:
            w_row = expert * 2 * N + block * PART
            x_row = gl.convert_layout(gl.where(read, source, -1), gl.SliceLayout(1, GATHER))
            gathered = x_row >= 0
            at = x + gl.where(gathered, x_row, 0).to(gl.int64)[:, None] * K + k[None, :]
        else:
            w_row = expert * N + block * (2 * PART)
            gathered = read
            at = x
        # N is a multiple of PART: rows of scales are rows of weights / PART
        w_scale_at = w_scale + (w_row // PART + both * (SECOND // PART)).to(gl.int64) * steps
        if rows > 0:
            for step in range(steps - 1):
                stage, phase = _load_step(
                    x_tiles, x_buffers, x_scale_buffers, w_tiles, w_buffers, w_scale_buffers, full, empty, stage, phase,
                    at, gathered, x_scale_at, read, w_scale_at, first_row, halves, w_row, step, SECOND, GATED,
                )  # fmt: skip
        # the next item is looked up before the last step, whose stage is not free for a while
        next_expert, next_first_row, next_rows, next_block = load_item(
            turn + 1, tiles, used, experts, assignments, most_tiles, COLUMN_BLOCKS
        )
        next_source, next_read = _sources(order, next_first_row, next_rows, assignments, x_rows, GATED, TOP_K, LINE)
        if rows > 0:
            stage, phase = _load_step(
                x_tiles, x_buffers, x_scale_buffers, w_tiles, w_buffers, w_scale_buffers, full, empty, stage, phase,
                at, gathered, x_scale_at, read, w_scale_at, first_row, halves, w_row, steps - 1, SECOND, GATED,
            )  # fmt: skip
        expert = next_expert
        first_row = next_first_row
        rows = next_rows
        block = next_block
        source = next_source
        read = next_read


@gluon.jit
def _targets(assignment, row, assignments, x_rows, GATED: gl.constexpr, TOP_K: gl.constexpr):
    """The row of y that each sorted row becomes, -1 for none."""
    if GATED:
        _, live = _gathered_rows(assignment, assignments, x_rows, TOP_K)
        target = gl.where(live, row, -1)
    else:
        target = target_rows(assignment, row, assignments, x_rows)
    return target


@gluon.jit
def _here(x):
    """x, computed here: LLVM would sink additions to where they are next needed."""
    return gl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=False, pack=1)


@gluon.jit
def _scale(x_scale_buffers, w_scale_buffers, stage, part: gl.constexpr, LAYOUT: gl.constexpr, ME: gl.constexpr):
    """(HALF,) product of a step's scales, each row's own and the weight block's."""
    rows = x_scale_buffers.index(stage).slice(ME * HALF, HALF).load(LAYOUT)
    return rows * w_scale_buffers.index(stage).slice(part, 1).load(LAYOUT)


@gluon.jit
def _store_codes(value, target, out_buffer, y, y_scale, block, N: gl.constexpr, ROW: gl.constexpr):
    """Round the one group of each row that is in `value` (HALF, PART) f32, which bf16 holds; `target` int32 in shared memory: the row of y, -1 for none."""
    CODES: gl.constexpr = gl.BlockedLayout([1, 16], [4, 8], [4, 1], [1, 0])
    code, scale = round_groups(value)
    row = target.load(ROW)
    gl.store(y_scale + row.to(gl.int64) * (N // PART) + block, scale, mask=row >= 0)
    row = target.load(gl.SliceLayout(1, CODES))
    y_at = (y + row.to(gl.int64) * N + block * PART)[:, None] + gl.arange(0, PART, gl.SliceLayout(0, CODES))[None, :]
    codes = out_buffer._reinterpret(
        gl.float8e4nv, [HALF, PART], gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8, rank=2)
    )
    codes.store(code)
    gl.store(y_at, codes.load(CODES), mask=(row >= 0)[:, None])


@gluon.jit
def _products(
    x_buffers, x_scale_buffers, w_buffers, w_scale_buffers, out_buffer, full, empty, y, y_scale, order, tiles, used, stage, phase,
    turn, expert, first_row, rows, block, assignments, x_rows, experts, most_tiles, K,
    N: gl.constexpr, GATED: gl.constexpr, TOP_K: gl.constexpr, COLUMN_BLOCKS: gl.constexpr, ME: gl.constexpr,
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
    place = ME * HALF + gl.arange(0, HALF, LINE)
    row = first_row + place
    assignment = gl.full([HALF], -1, gl.int32, LINE)
    mbarrier.wait(full.index(stage), phase)
    if GATED:
        fence_async_shared()
    for step in range(steps):
        left = x_buffers.index(stage).slice(ME * HALF, HALF)
        fresh = warpgroup_mma(left, w_buffers.index(stage * 2).permute((1, 0)), zeros, use_acc=False, is_async=True)
        scale = _scale(x_scale_buffers, w_scale_buffers, stage, 0, ROW, ME)
        if step == 0:  # what the epilogue and the next turn need, beside the first products
            next_expert, next_first_row, next_rows, next_block = load_item(
                turn + 1, tiles, used, experts, assignments, most_tiles, COLUMN_BLOCKS
            )
            assignment = load_assignments(order, row, place, rows, assignments)
        fresh = warpgroup_mma_wait(0, deps=[fresh])
        sums_0 = _here(sums_0 + fresh * scale[:, None])
        if most_tiles > 0:  # always; ptxas moves nothing over a branch: with two sets of fresh products it would spill
            fresh = warpgroup_mma(
                left, w_buffers.index(stage * 2 + 1).permute((1, 0)), zeros, use_acc=False, is_async=True
            )
            scale = _scale(x_scale_buffers, w_scale_buffers, stage, 1, ROW, ME)
            after, after_phase = next_stage(stage, phase, STAGES)
            if step + 1 < steps:
                mbarrier.wait(full.index(after), after_phase)
                if GATED:
                    fence_async_shared()
            fresh = warpgroup_mma_wait(0, deps=[fresh])
            mbarrier.arrive(empty.index(stage))
            sums_1 += fresh * scale[:, None]
            stage = after
            phase = after_phase

    # to the threads that write these rows, by memory that outputs take afterwards
    targets = out_buffer._reinterpret(gl.int32, [HALF], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    targets.store(_targets(assignment, row, assignments, x_rows, GATED, TOP_K))
    if GATED:
        value = (silu(sums_0) * sums_1).to(gl.bfloat16).to(gl.float32)
        _store_codes(value, targets, out_buffer, y, y_scale, block, N, ROW)
    else:
        target = targets.load(gl.SliceLayout(1, FLAT))
        y_at = (y + target.to(gl.int64) * N + block * (2 * PART))[:, None]
        y_at += gl.arange(0, PART, gl.SliceLayout(0, FLAT))[None, :]
        live = (target >= 0)[:, None]
        out_buffer.store(sums_0.to(gl.bfloat16))
        gl.store(y_at, out_buffer.load(FLAT), mask=live)
        out_buffer.store(sums_1.to(gl.bfloat16))
        gl.store(y_at + PART, out_buffer.load(FLAT), mask=live)
    return next_expert, next_first_row, next_rows, next_block


@gluon.jit
def _consumer(
    x_buffers, x_scale_buffers, w_buffers, w_scale_buffers, out_buffers, full, empty, y, y_scale, order, tiles, used, turns,
    assignments, x_rows, experts, most_tiles, K,
    N: gl.constexpr, GATED: gl.constexpr, TOP_K: gl.constexpr, COLUMN_BLOCKS: gl.constexpr, ME: gl.constexpr,
):  # fmt: skip
    out_buffer = out_buffers.index(ME)
    steps = K // STEP
    done = gl.to_tensor(0)
    expert, first_row, rows, block = load_item(0, tiles, used, experts, assignments, most_tiles, COLUMN_BLOCKS)
    for turn in range(turns):
        stage = done % STAGES
        phase = done // STAGES & 1
        done += gl.where(rows > 0, steps, 0)
        if rows > ME * HALF:
            expert, first_row, rows, block = _products(
                x_buffers, x_scale_buffers, w_buffers, w_scale_buffers, out_buffer, full, empty, y, y_scale, order, tiles, used, stage, phase,
                turn, expert, first_row, rows, block, assignments, x_rows, experts, most_tiles, K, N, GATED, TOP_K, COLUMN_BLOCKS, ME,
            )  # fmt: skip
        else:
            if ME > 0 and rows > 0:  # all rows are the other's: the stages are let go
                for _ in range(steps):
                    mbarrier.wait(full.index(stage), phase)
                    mbarrier.arrive(empty.index(stage))
                    stage, phase = next_stage(stage, phase, STAGES)
            expert, first_row, rows, block = load_item(
                turn + 1, tiles, used, experts, assignments, most_tiles, COLUMN_BLOCKS
            )


@gluon.jit(do_not_specialize=["assignments", "x_rows", "experts", "most_tiles"])
def grouped_block_kernel(
    x, x_tiles, x_scale, w_tiles, w_scale, y, y_scale, order, tiles, num_tiles, assignments, x_rows, experts, most_tiles, K,
    N: gl.constexpr, GATED: gl.constexpr, TOP_K: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    """Any grid, with all shared memory of a multiprocessor for each program.

    GATED: row r is x[order[r] // TOP_K] and goes to y[r], silu(gate) * up, as codes with a scale for each 128 columns in y_scale; else it is
    x[r] and goes to y[order[r]], bf16, and there is no y_scale.
    w_tiles: a descriptor of W as (E x parts x N, K), blocks of (PART, STEP). x_tiles: of x, and maybe of rows behind it that have no meaning, blocks of (HALF, STEP); None if GATED.
    """
    COLUMN_BLOCKS: gl.constexpr = N // (PART if GATED else 2 * PART)
    WARPS: gl.constexpr = 4 if GATED else 1
    w_buffers = gl.allocate_shared_memory(gl.float8e4nv, [STAGES * 2, PART, STEP], w_tiles.layout)
    x_buffers = gl.allocate_shared_memory(gl.float8e4nv, [STAGES, TILE_ROWS, STEP], w_tiles.layout)
    out_layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    out_buffers = gl.allocate_shared_memory(gl.bfloat16, [2, HALF, PART], out_layout)
    plain: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    x_scale_buffers = gl.allocate_shared_memory(gl.float32, [STAGES, TILE_ROWS], plain)
    w_scale_buffers = gl.allocate_shared_memory(gl.float32, [STAGES, 2], plain)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1 + 32 * WARPS)
        mbarrier.init(empty.index(stage), count=2)
    fence_async_shared()
    sync_threads()

    wait_for_previous(PDL)
    used, turns = load_num_turns(num_tiles, most_tiles, COLUMN_BLOCKS)
    # registers are those of consumer 1 and of the producer; consumer 0 has what is left
    gl.warp_specialize(
        [
            (_consumer, (
                x_buffers, x_scale_buffers, w_buffers, w_scale_buffers, out_buffers, full, empty, y, y_scale, order, tiles, used, turns,
                assignments, x_rows, experts, most_tiles, K, N, GATED, TOP_K, COLUMN_BLOCKS, 0,
            )),
            (_consumer, (
                x_buffers, x_scale_buffers, w_buffers, w_scale_buffers, out_buffers, full, empty, y, y_scale, order, tiles, used, turns,
                assignments, x_rows, experts, most_tiles, K, N, GATED, TOP_K, COLUMN_BLOCKS, 1,
            )),
            (_producer, (
                x, x_tiles, x_scale, x_buffers, x_scale_buffers, w_tiles, w_scale, w_buffers, w_scale_buffers, full, empty, order, tiles, used, turns,
                assignments, x_rows, experts, most_tiles, K, N, GATED, TOP_K, COLUMN_BLOCKS, WARPS,
            )),
        ],
        [4, WARPS],
        [224 if GATED else 232, 72 if GATED else 40],
    )  # fmt: skip

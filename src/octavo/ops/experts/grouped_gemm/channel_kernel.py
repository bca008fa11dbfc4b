"""Plain products of experts with one scale for each row and column, persistent: the arithmetic of `kernel.py`, and so its bits.

Row r is x[r] and goes to y[order[r]]. Gated products, whose rows are gathered, were slower here than tiles of `kernel.py`.

Weights are the tall side, as there: a consumer multiplies two pieces of 64 columns next to each other with up to 128 rows by wgmma m64nROWSk32,
over K in order into one sum each. Both consumers multiply the same rows with pieces of their own: a step is 48 KiB from the second cache for
256 x 128 sums, 3/4 of the bytes of tiles of 128 x 128. The one's epilogue runs beside the other's products, as far apart as stages allow.

Stages. Step s, counted on through all items of a program, uses stage s % STAGES as its use number s // STAGES. Barriers of a stage:

    full    1 arrival (the producer's expect) and all bytes of bulk copies
    empty   an arrival of each consumer, behind a barrier of its warps, all of which have waited for their products

    producer before step s: use s // STAGES - 1 is over with the (s // STAGES)-th completion of `empty`: parity (s // STAGES & 1) ^ 1, which a
        fresh barrier passes
    consumer before step s: the (s // STAGES + 1)-th completion of `full`: parity s // STAGES & 1

Parity is enough, as nobody is a phase behind or ahead: `full` of a stage's next use needs the producer, which has waited for `empty` of this one, for
which both consumers have waited for `full` of this one. A consumer frees step s - 1 when the products of step s are issued and those of s - 1
done, and an item's last step when all are done. No deadlock for STAGES >= 2: a consumer that does not free step s - STAGES waits at
most for step s - STAGES + 1 < s, which the producer has issued before it waits for that stage.

Hazards. Sums are touched by products alone between the first and the wait for the last. Operands come by bulk copies alone, by the proxy that wgmma
reads by.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from octavo.ops.device import wait_for_previous
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

PIECE = gl.constexpr(64)
"""Columns of weights of one product."""
PIECES = gl.constexpr(4)
"""Of an item: 2c and 2c + 1 are consumer c's."""
X_BOX = gl.constexpr(32)
"""Rows of x of one bulk copy."""


@gluon.jit
def _load_step(
    x_tiles, x_buffers, w_tiles, w_buffers, full, empty, stage, phase, first_row, boxes, w_row, step
):  # fmt: skip
    bar = full.index(stage)
    w_bytes: gl.constexpr = PIECES * w_tiles.block_type.nbytes
    mbarrier.wait(empty.index(stage), phase)
    for box in gl.static_range(TILE_ROWS // X_BOX):
        mbarrier.expect(bar, w_bytes + (box + 1) * x_tiles.block_type.nbytes, pred=boxes == box + 1)
    for piece in gl.static_range(PIECES):
        tma.async_copy_global_to_shared(
            w_tiles, [w_row + piece * PIECE, step * STEP], bar, w_buffers.index(stage * PIECES + piece)
        )
    for box in gl.static_range(TILE_ROWS // X_BOX):
        tma.async_copy_global_to_shared(
            x_tiles, [first_row + box * X_BOX, step * STEP], bar, x_buffers.index(stage).slice(box * X_BOX, X_BOX),
            pred=box < boxes,
        )  # fmt: skip
    return next_stage(stage, phase, STAGES)


@gluon.jit
def _producer(
    x_tiles, x_buffers, w_tiles, w_buffers, full, empty, tiles, used, turns, assignments, experts, most_tiles, K,
    N: gl.constexpr, COLUMN_BLOCKS: gl.constexpr,
):  # fmt: skip
    """Bulk copies, of rows as few as hold the tile's. They end where what is described does."""
    stage = gl.to_tensor(0)
    phase = gl.to_tensor(1)
    steps = K // STEP
    expert, first_row, rows, block = load_item(0, tiles, used, experts, assignments, most_tiles, COLUMN_BLOCKS)
    for turn in range(turns):
        boxes = (rows + X_BOX - 1) // X_BOX
        w_row = expert * N + block * (PIECES * PIECE)
        if rows > 0:
            for step in range(steps - 1):
                stage, phase = _load_step(
                    x_tiles, x_buffers, w_tiles, w_buffers, full, empty, stage, phase, first_row, boxes, w_row, step
                )
        # the next item is looked up before the last step, whose stage is not free for a while
        next_expert, next_first_row, next_rows, next_block = load_item(
            turn + 1, tiles, used, experts, assignments, most_tiles, COLUMN_BLOCKS
        )
        if rows > 0:
            stage, phase = _load_step(
                x_tiles, x_buffers, w_tiles, w_buffers, full, empty, stage, phase, first_row, boxes, w_row, steps - 1
            )
        expert = next_expert
        first_row = next_first_row
        rows = next_rows
        block = next_block


@gluon.jit
def _products(
    x_buffers, w_buffers, out_buffer, full, empty, x_scale, w_scale, y, order, tiles, used, stage, phase,
    turn, expert, first_row, rows, block, assignments, x_rows, experts, most_tiles, K,
    x_scale_stride, w_scale_expert, w_scale_col, N: gl.constexpr, COLUMN_BLOCKS: gl.constexpr, ROWS: gl.constexpr, ME: gl.constexpr,
):  # fmt: skip
    """Up to ROWS rows x this consumer's two pieces of an item, from the stage of the item's first step on. Returns the next turn's item."""
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROWS, 32])
    FLAT: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    LINE: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    first_piece: gl.constexpr = ME * 2

    zeros = gl.zeros([PIECE, ROWS], gl.float32, SUMS)
    mbarrier.wait(full.index(stage), phase)
    right = x_buffers.index(stage).slice(0, ROWS).permute((1, 0))
    acc_0 = warpgroup_mma(w_buffers.index(stage * PIECES + first_piece), right, zeros, use_acc=False, is_async=True)
    acc_1 = warpgroup_mma(w_buffers.index(stage * PIECES + first_piece + 1), right, zeros, use_acc=False, is_async=True)
    acc_0, acc_1 = warpgroup_mma_wait(2, deps=[acc_0, acc_1])

    place = gl.arange(0, ROWS, LINE)
    flat_place = gl.arange(0, ROWS, gl.SliceLayout(1, FLAT))
    piece_column = gl.arange(0, PIECE, gl.SliceLayout(1, SUMS))
    first_column = (block * PIECES + first_piece) * PIECE
    if (
        K > 0
    ):  # always; ptxas moves nothing over a branch, and would else wait for these loads before the first products
        next_expert, next_first_row, next_rows, next_block = load_item(
            turn + 1, tiles, used, experts, assignments, most_tiles, COLUMN_BLOCKS
        )
        row = first_row + place
        line_scale = gl.load(x_scale + row * x_scale_stride, mask=(place < rows) & (row < x_rows), other=0.0)
        scale_at = w_scale + expert.to(gl.int64) * w_scale_expert + (first_column + piece_column) * w_scale_col
        scale_0 = gl.load(scale_at)
        scale_1 = gl.load(scale_at + w_scale_col * PIECE)
        assignment = load_assignments(order, first_row + flat_place, flat_place, rows, assignments)
    else:
        next_expert = expert
        next_first_row = first_row
        next_rows = gl.to_tensor(0)
        next_block = block
        line_scale = gl.zeros([ROWS], gl.float32, LINE)
        scale_0 = gl.zeros([PIECE], gl.float32, gl.SliceLayout(1, SUMS))
        scale_1 = gl.zeros([PIECE], gl.float32, gl.SliceLayout(1, SUMS))
        assignment = gl.full([ROWS], -1, gl.int32, gl.SliceLayout(1, FLAT))

    for _ in range(1, K // STEP):
        before = stage
        stage, phase = next_stage(stage, phase, STAGES)
        mbarrier.wait(full.index(stage), phase)
        right = x_buffers.index(stage).slice(0, ROWS).permute((1, 0))
        acc_0 = warpgroup_mma(w_buffers.index(stage * PIECES + first_piece), right, acc_0, is_async=True)
        acc_1 = warpgroup_mma(w_buffers.index(stage * PIECES + first_piece + 1), right, acc_1, is_async=True)
        acc_0, acc_1 = warpgroup_mma_wait(2, deps=[acc_0, acc_1])
        mbarrier.arrive(empty.index(before))
    acc_0, acc_1 = warpgroup_mma_wait(0, deps=[acc_0, acc_1])
    mbarrier.arrive(empty.index(stage))

    token_scale = gl.convert_layout(line_scale, gl.SliceLayout(0, SUMS))[None, :]
    target = target_rows(assignment, first_row + flat_place, assignments, x_rows)
    y_at = (y + target.to(gl.int64) * N + first_column)[:, None] + gl.arange(0, PIECE, gl.SliceLayout(0, FLAT))[None, :]
    live = (target >= 0)[:, None]
    out_rows = out_buffer.slice(0, ROWS)
    acc_0 = acc_0 * (scale_0[:, None] * token_scale)
    out_rows.permute((1, 0)).store(acc_0.to(gl.bfloat16))
    gl.store(y_at, out_rows.load(FLAT), mask=live)
    acc_1 = acc_1 * (scale_1[:, None] * token_scale)
    out_rows.permute((1, 0)).store(acc_1.to(gl.bfloat16))
    gl.store(y_at + PIECE, out_rows.load(FLAT), mask=live)
    return next_expert, next_first_row, next_rows, next_block


@gluon.jit
def _consumer(
    x_buffers, w_buffers, out_buffers, full, empty, x_scale, w_scale, y, order, tiles, used, turns,
    assignments, x_rows, experts, most_tiles, K, x_scale_stride, w_scale_expert, w_scale_col,
    N: gl.constexpr, COLUMN_BLOCKS: gl.constexpr, ME: gl.constexpr,
):  # fmt: skip
    """Multiplies its pieces of every item, at the least of 128, 64 and 32 rows that holds the tile."""
    out_buffer = out_buffers.index(ME)
    done = gl.to_tensor(0)
    expert, first_row, rows, block = load_item(0, tiles, used, experts, assignments, most_tiles, COLUMN_BLOCKS)
    for turn in range(turns):
        stage = done % STAGES
        phase = done // STAGES & 1
        done += gl.where(rows > 0, K // STEP, 0)
        if rows > TILE_ROWS // 2:
            expert, first_row, rows, block = _products(
                x_buffers, w_buffers, out_buffer, full, empty, x_scale, w_scale, y, order, tiles, used, stage, phase,
                turn, expert, first_row, rows, block, assignments, x_rows, experts, most_tiles, K,
                x_scale_stride, w_scale_expert, w_scale_col, N, COLUMN_BLOCKS, TILE_ROWS, ME,
            )  # fmt: skip
        elif rows > TILE_ROWS // 4:
            expert, first_row, rows, block = _products(
                x_buffers, w_buffers, out_buffer, full, empty, x_scale, w_scale, y, order, tiles, used, stage, phase,
                turn, expert, first_row, rows, block, assignments, x_rows, experts, most_tiles, K,
                x_scale_stride, w_scale_expert, w_scale_col, N, COLUMN_BLOCKS, TILE_ROWS // 2, ME,
            )  # fmt: skip
        elif rows > 0:
            expert, first_row, rows, block = _products(
                x_buffers, w_buffers, out_buffer, full, empty, x_scale, w_scale, y, order, tiles, used, stage, phase,
                turn, expert, first_row, rows, block, assignments, x_rows, experts, most_tiles, K,
                x_scale_stride, w_scale_expert, w_scale_col, N, COLUMN_BLOCKS, TILE_ROWS // 4, ME,
            )  # fmt: skip
        else:
            expert, first_row, rows, block = load_item(
                turn + 1, tiles, used, experts, assignments, most_tiles, COLUMN_BLOCKS
            )


@gluon.jit(do_not_specialize=["assignments", "x_rows", "experts", "most_tiles"])
def grouped_channel_kernel(
    x_tiles, x_scale, w_tiles, w_scale, y, order, tiles, num_tiles,
    assignments, x_rows, experts, most_tiles, K, x_scale_stride, w_scale_expert, w_scale_col, N: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    """Any grid, with all shared memory of a multiprocessor for each program.

    x_tiles: a descriptor of x, blocks of (X_BOX, STEP). w_tiles: of W as (E x N, K), blocks of (PIECE, STEP).
    """
    COLUMN_BLOCKS: gl.constexpr = N // (PIECE * PIECES)
    w_buffers = gl.allocate_shared_memory(gl.float8e4nv, [STAGES * PIECES, PIECE, STEP], w_tiles.layout)
    x_buffers = gl.allocate_shared_memory(gl.float8e4nv, [STAGES, TILE_ROWS, STEP], w_tiles.layout)
    out_layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    out_buffers = gl.allocate_shared_memory(gl.bfloat16, [2, TILE_ROWS, PIECE], out_layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    fence_async_shared()
    sync_threads()

    wait_for_previous(PDL)
    used, turns = load_num_turns(num_tiles, most_tiles, COLUMN_BLOCKS)
    # registers are those of consumer 1 and of the producer; consumer 0 has what is left
    gl.warp_specialize(
        [
            (_consumer, (
                x_buffers, w_buffers, out_buffers, full, empty, x_scale, w_scale, y, order, tiles, used, turns,
                assignments, x_rows, experts, most_tiles, K, x_scale_stride, w_scale_expert, w_scale_col,
                N, COLUMN_BLOCKS, 0,
            )),
            (_consumer, (
                x_buffers, w_buffers, out_buffers, full, empty, x_scale, w_scale, y, order, tiles, used, turns,
                assignments, x_rows, experts, most_tiles, K, x_scale_stride, w_scale_expert, w_scale_col,
                N, COLUMN_BLOCKS, 1,
            )),
            (_producer, (
                x_tiles, x_buffers, w_tiles, w_buffers, full, empty, tiles, used, turns, assignments, experts, most_tiles, K, N, COLUMN_BLOCKS,
            )),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip

"""A product of few rows whose weights are on their way before the kernel before has ended, in Gluon: the arithmetic of `kernel.py`, and so its bits.

A product of few rows takes as long as its weights take to come, and they depend on nothing that a kernel before computes. Here as much
of K as shared memory holds is asked for before the wait for that kernel, and the rows after the wait; what is left goes where products
are done. So a weight of a few megabytes is there when its rows are.

Weights are the tall side, as there: a step of K is the product of 64 columns of the weight and ROWS rows by wgmma m64nROWSk32 (k16 in bf16), over K in
order into one sum. With scales per block each has a sum of its own, which is scaled and added; PENDING of these are issued one behind the other
before the first is waited for.

Parts. GROUP steps come together, by one copy of the weights and one of the rows. Group g has place g % RING, as its use number g // RING, whose barrier
completes with 1 arrival (the expect) and the bytes of both copies: parity g // RING & 1. A place is asked for again when all products of
its group are done, in every warp, which a barrier of all threads says. Nobody is a phase behind: that barrier comes after each thread's
wait for the place. Operands come by bulk copies alone, by the proxy that wgmma reads by.
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
from octavo.ops.linear import early_tile
from octavo.ops.persistent_device import sync_threads

COLUMNS = gl.constexpr(early_tile.EarlyTile.columns)
BLOCK = gl.constexpr(128)
"""Rows of a block of weights that has one scale."""


@gluon.jit
def _ask_for_weights(w_tiles, x_tiles, w_groups, full, first_column, group, RING: gl.constexpr):
    """Have a group's place expect both copies, and start that of the weights."""
    bar = full.index(group % RING)
    mbarrier.expect(bar, w_tiles.block_type.nbytes + x_tiles.block_type.nbytes)
    at = [group * w_tiles.block_shape[0], first_column, 0]
    tma.async_copy_global_to_shared(w_tiles, at, bar, w_groups.index(group % RING))


@gluon.jit
def _ask_for_rows(x_tiles, x_groups, full, first_row, group, RING: gl.constexpr):
    """Start the copy of a group's rows; past what is described there are zeros."""
    at = [group * x_tiles.block_shape[0], first_row, 0]
    tma.async_copy_global_to_shared(x_tiles, at, full.index(group % RING), x_groups.index(group % RING))


@gluon.jit
def _issue(w_buffers, x_buffers, place, acc, GOES_ON: gl.constexpr):
    """Issue the product of a step behind those before it; GOES_ON: it is added to acc."""
    rows = x_buffers.index(place).permute((1, 0))
    return warpgroup_mma(w_buffers.index(place), rows, acc, use_acc=GOES_ON, is_async=True)


@gluon.jit
def _add_scaled(w_buffers, x_buffers, scales, place, step, acc, zeros, PENDING: gl.constexpr):
    """acc and the products of PENDING steps, each scaled, in order."""
    ROW: gl.constexpr = gl.SliceLayout(0, acc.type.layout)
    first = _issue(w_buffers, x_buffers, place, zeros, False)
    if PENDING == 1:
        first = warpgroup_mma_wait(0, deps=[first])
        acc += first * scales.index(step).load(ROW)[None, :]
    elif PENDING == 2:
        second = _issue(w_buffers, x_buffers, place + 1, zeros, False)
        first, second = warpgroup_mma_wait(1, deps=[first, second])
        acc += first * scales.index(step).load(ROW)[None, :]
        second = warpgroup_mma_wait(0, deps=[second])
        acc += second * scales.index(step + 1).load(ROW)[None, :]
    else:
        second = _issue(w_buffers, x_buffers, place + 1, zeros, False)
        third = _issue(w_buffers, x_buffers, place + 2, zeros, False)
        fourth = _issue(w_buffers, x_buffers, place + 3, zeros, False)
        first, second, third, fourth = warpgroup_mma_wait(3, deps=[first, second, third, fourth])
        acc += first * scales.index(step).load(ROW)[None, :]
        second, third, fourth = warpgroup_mma_wait(2, deps=[second, third, fourth])
        acc += second * scales.index(step + 1).load(ROW)[None, :]
        third, fourth = warpgroup_mma_wait(1, deps=[third, fourth])
        acc += third * scales.index(step + 2).load(ROW)[None, :]
        fourth = warpgroup_mma_wait(0, deps=[fourth])
        acc += fourth * scales.index(step + 3).load(ROW)[None, :]
    return acc


@gluon.jit(do_not_specialize=["rows"])
def early_dense_kernel(
    x_tiles, x_scale, w_tiles, w_scale, bias, y, rows, N, K,
    SCALED: gl.constexpr, X_SCALE_STRIDE: gl.constexpr, BLOCKWISE: gl.constexpr, BIAS: gl.constexpr, RING: gl.constexpr, PENDING: gl.constexpr,
    MOST_STEPS: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    """Grid (ceil(rows / ROWS) * ceil(N / COLUMNS),), four warps each; those of the same columns are neighbours. Writes y (rows, N) bf16 or f32.

    x_tiles: a descriptor of x, and of rows behind it that have no meaning, as (steps, rows, step of K), blocks of (GROUP, ROWS, step). w_tiles: of W as
    (steps, N, step of K), blocks of (GROUP, COLUMNS, step). What lies past rows or N, whatever it is, only reaches sums that are not stored.
    GROUP divides the steps, PENDING divides GROUP. MOST_STEPS: a power of two, as many as the steps of K, with scales per block.
    X_SCALE_STRIDE: 1 where each row has a scale, 0 where all have one.
    """
    GROUP: gl.constexpr = x_tiles.block_shape[0]
    ROWS: gl.constexpr = x_tiles.block_shape[1]
    STEP: gl.constexpr = x_tiles.block_shape[2]
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROWS, STEP // 4])
    LANES: gl.constexpr = 16 if ROWS == 16 else 32
    LINES: gl.constexpr = gl.BlockedLayout([1, 1], [LANES, 32 // LANES], [1, 4], [0, 1])
    MATRIX: gl.constexpr = gl.NVMMASharedLayout(128, w_tiles.dtype.primitive_bitwidth, 2)
    PLAIN: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    w_buffers = gl.allocate_shared_memory(w_tiles.dtype, [RING * GROUP, COLUMNS, STEP], MATRIX)
    x_buffers = gl.allocate_shared_memory(w_tiles.dtype, [RING * GROUP, ROWS, STEP], MATRIX)
    w_groups = w_buffers._reinterpret(w_tiles.dtype, [RING, GROUP, COLUMNS, STEP], w_tiles.layout)
    x_groups = x_buffers._reinterpret(w_tiles.dtype, [RING, GROUP, ROWS, STEP], x_tiles.layout)
    full = gl.allocate_shared_memory(gl.int64, [RING, 1], mbarrier.MBarrierLayout())
    for place in gl.static_range(RING):
        mbarrier.init(full.index(place), count=1)
    fence_async_shared()
    sync_threads()
    row_tiles = (rows + ROWS - 1) // ROWS
    first_row, first_column = gl.program_id(0) % row_tiles * ROWS, gl.program_id(0) // row_tiles * COLUMNS
    steps = K // STEP
    groups = steps // GROUP
    early = gl.minimum(groups, RING)
    for group in range(early):
        _ask_for_weights(w_tiles, x_tiles, w_groups, full, first_column, group, RING)

    # beside them, what belongs to the weights; see `wait_for_previous`
    column = first_column + gl.arange(0, COLUMNS, gl.SliceLayout(1, SUMS))
    row = first_row + gl.arange(0, ROWS, gl.SliceLayout(0, SUMS))
    written = column < N
    if SCALED:
        channel_scale = gl.load(w_scale + column, mask=written, other=0.0, cache_modifier=".cg")
    if BIAS:
        added = gl.load(bias + column, mask=written, other=0.0, cache_modifier=".cg")
    if BLOCKWISE:
        line = first_row + gl.arange(0, ROWS, gl.SliceLayout(1, LINES))
        step_of = gl.arange(0, MOST_STEPS, gl.SliceLayout(0, LINES))
        block_at = w_scale + first_column // BLOCK * steps + step_of
        of_block = gl.load(block_at, mask=step_of < steps, other=0.0, cache_modifier=".cg")
    wait_for_previous(PDL)

    for group in range(early):
        _ask_for_rows(x_tiles, x_groups, full, first_row, group, RING)
    if SCALED:
        token_scale = gl.load(x_scale + row * X_SCALE_STRIDE, mask=row < rows, other=0.0)
    if BLOCKWISE:
        inside = (line < rows)[:, None] & (step_of < steps)[None, :]
        of_rows = gl.load(x_scale + line[:, None] * steps + step_of[None, :], mask=inside, other=0.0)
        scales = gl.allocate_shared_memory(gl.float32, [MOST_STEPS, ROWS], PLAIN)
        all_scales = scales._reinterpret(gl.float32, [MOST_STEPS, ROWS], gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))
        all_scales.permute((1, 0)).store(of_rows * of_block[None, :])

    zeros = gl.zeros([COLUMNS, ROWS], gl.float32, SUMS)
    acc = zeros
    for group in range(groups):
        first = group % RING * GROUP
        mbarrier.wait(full.index(group % RING), group // RING & 1)
        if BLOCKWISE:
            # in turn: side by side, tiles of 128 rows would spill
            for part in range(GROUP // PENDING):
                begin = part * PENDING
                acc = _add_scaled(
                    w_buffers, x_buffers, scales, first + begin, group * GROUP + begin, acc, zeros, PENDING
                )
        else:
            for part in gl.static_range(GROUP):
                acc = _issue(w_buffers, x_buffers, first + part, acc, True)
            acc = warpgroup_mma_wait(0, deps=[acc])
        if group + RING < groups:
            sync_threads()
            _ask_for_weights(w_tiles, x_tiles, w_groups, full, first_column, group + RING, RING)
            _ask_for_rows(x_tiles, x_groups, full, first_row, group + RING, RING)
    if SCALED:
        acc *= channel_scale[:, None] * token_scale[None, :]
    if BIAS:
        acc += added.to(gl.float32)[:, None]
    y_at = y + row.to(gl.int64)[None, :] * N + column[:, None]
    gl.store(y_at, acc.to(y.dtype.element_ty), mask=(row < rows)[None, :] & written[:, None])

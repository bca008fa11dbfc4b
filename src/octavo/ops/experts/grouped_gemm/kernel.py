"""Weights as the tall side: acc (COLS, ROWS) = W (COLS, K) @ x^T (K, ROWS), so that wgmma serves every row count.

The order of summation along K is a function of the weight's format alone: ascending into one accumulator, or one per 128 columns
where scales are per block, whose steps are STEP = 128. Else STEP is free, as are ROWS, COLS, warps and stages.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import block_scale, silu, wait_for_previous
from octavo.ops.quantize.kernel import round_groups


@triton.jit
def _product(
    x, x_tiles, x_early, early, x_scale, w, w_scale, y, y_scale, order,
    expert, first_row, rows, first_column, assignments, x_rows, K,
    x_scale_stride, w_scale_expert, w_scale_part, w_scale_col,
    N: tl.constexpr, GATED: tl.constexpr, GATHER: tl.constexpr, TOP_K: tl.constexpr, SCALED: tl.constexpr, BLOCKWISE: tl.constexpr, EVEN_K: tl.constexpr,
    STEP: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, TMA: tl.constexpr, EARLY: tl.constexpr, LATE: tl.constexpr,
):  # fmt: skip
    """Multiplies up to ROWS sorted rows of one expert, from first_row on, into COLS columns."""
    column = first_column + tl.arange(0, COLS)
    row = first_row + tl.arange(0, ROWS)
    held = (tl.arange(0, ROWS) < rows) & (row >= 0) & (row < assignments)
    assignment = tl.load(order + row, mask=held, other=-1)
    live = held & (assignment >= 0) & (assignment < assignments)
    if GATHER:
        source = assignment // TOP_K
        target = row
        read = live & (source < x_rows)
    else:  # rows are read without waiting for where they go
        source = row
        target = assignment
        read = held & (source < x_rows)
    live = live & read
    source = tl.where(read, source, 0).to(tl.int64)

    k = tl.arange(0, STEP)
    safe_column = tl.where(column < N, column, 0)
    parts: tl.constexpr = 2 if GATED else 1
    w_row = expert * parts * N + first_column
    if x_tiles is None:
        x_at = x + source[:, None] * K + k[None, :]
    if not TMA:
        w_at = w + (expert.to(tl.int64) * parts * N + safe_column)[:, None] * K + k[None, :]
        up_at = w_at + tl.cast(N, tl.int64) * K
    if SCALED:
        token_scale = tl.load(x_scale + source * x_scale_stride, mask=read, other=0.0)
        w_scale += expert.to(tl.int64) * w_scale_expert + safe_column * w_scale_col
        channel_scale = tl.load(w_scale)
        if GATED:
            up_scale = tl.load(w_scale + w_scale_part)
    if BLOCKWISE:
        # a step's scales are loaded one step ahead
        k_blocks = tl.cdiv(K, 128)
        row_block = expert * parts * tl.cdiv(N, 128) + first_column // 128
        up_block = row_block + tl.cdiv(N, 128)
        scale = block_scale(w_scale, x_scale, source, read, row_block, 0, k_blocks)
        if GATED:
            up_scale = block_scale(w_scale, x_scale, source, read, up_block, 0, k_blocks)
    acc = tl.zeros((COLS, ROWS), tl.float32)
    up = tl.zeros((COLS, ROWS), tl.float32)
    if EARLY:
        acc = tl.dot(early, tl.trans(x_early.load([first_row, 0])), acc)
    for step in range(EARLY // STEP, tl.cdiv(K, STEP) if LATE else EARLY // STEP):
        # weights first: where their rows are is known before which rows of x these are
        inside = k[None, :] < K - step * STEP
        if TMA:
            b = w.load([w_row, step * STEP])
        else:
            b = tl.load(w_at) if EVEN_K else tl.load(w_at, mask=inside, other=0.0)
            w_at += STEP
        if GATED:
            if TMA:
                b_up = w.load([w_row + N, step * STEP])
            else:
                b_up = tl.load(up_at) if EVEN_K else tl.load(up_at, mask=inside, other=0.0)
                up_at += STEP
        if x_tiles is None:
            a = tl.load(x_at, mask=read[:, None] if EVEN_K else read[:, None] & inside, other=0.0)
            x_at += STEP
        else:
            a = x_tiles.load([first_row, step * STEP])
        if BLOCKWISE:
            next_scale = block_scale(w_scale, x_scale, source, read, row_block, step + 1, k_blocks)
            acc += tl.dot(b, tl.trans(a)) * scale[None, :]
            scale = next_scale
            if GATED:
                next_scale = block_scale(w_scale, x_scale, source, read, up_block, step + 1, k_blocks)
                up += tl.dot(b_up, tl.trans(a)) * up_scale[None, :]
                up_scale = next_scale
        else:
            acc = tl.dot(b, tl.trans(a), acc)
            if GATED:
                up = tl.dot(b_up, tl.trans(a), up)

    if SCALED:
        acc *= channel_scale[:, None] * token_scale[None, :]
        if GATED:
            up *= up_scale[:, None] * token_scale[None, :]
    if GATED:
        acc = silu(acc) * up
    out = tl.trans(acc.to(tl.bfloat16))
    y_at = y + target.to(tl.int64)[:, None] * N + column[None, :]
    inside = (column < N)[None, :]
    if y_scale is None:
        tl.store(y_at, out, mask=live[:, None] & inside)
    else:  # these columns are all that share a scale
        code, scale = round_groups(tl.where(inside, out.to(tl.float32), 0.0))
        tl.store(y_at, code, mask=live[:, None] & inside)
        tl.store(y_scale + target.to(tl.int64) * tl.cdiv(N, COLS) + first_column // COLS, scale, mask=live)


@triton.jit(do_not_specialize=["assignments", "x_rows", "most_tiles"])
def grouped_gemm_kernel(
    x, x_tiles, x_early, x_scale, w, w_early, w_scale, y, y_scale, order, tiles, num_tiles,
    assignments, x_rows, experts, most_tiles, K, x_scale_stride, w_scale_expert, w_scale_part, w_scale_col,
    N: tl.constexpr, GATED: tl.constexpr, GATHER: tl.constexpr, TOP_K: tl.constexpr, SCALED: tl.constexpr, BLOCKWISE: tl.constexpr, EVEN_K: tl.constexpr,
    STEP: tl.constexpr, ROWS: tl.constexpr, MIN_ROWS: tl.constexpr, COLS: tl.constexpr, TILES_PER_BAND: tl.constexpr, TMA: tl.constexpr,
    EARLY: tl.constexpr, LATE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (max_tiles rounded up to whole bands x ceil(N / COLS),): programs past the tiles in use leave at once.

    Programs that run at the same time share a band of TILES_PER_BAND tiles, mostly of one expert, and with it the weights they read.

    GATHER: row r reads x[order[r] // TOP_K] and writes y[r]; else it reads x[r] and writes y[order[r]].
    GATED: W has 2N rows, gate then up, and y = silu(gate) * up. y_scale: where y are codes with a scale for each COLS columns, else None.
    TMA: w is a descriptor of W as (E x parts x N, K) with blocks of (COLS, STEP), else a pointer. x_tiles: a descriptor of
    x with blocks of (ROWS, STEP), or None. Columns past N and rows that are not live are not written. They may be loaded,
    always from inside the tensors, and are multiplied into nothing but themselves.
    EARLY: columns of W that are loaded while the kernel before still runs, by descriptors with blocks of (ROWS, EARLY) and (COLS, EARLY); the
    tiles must be older than the last kernel that waited before it let the next one start. LATE: whether K goes on behind them. Not where rows
    are gathered.
    MIN_ROWS: ROWS, or a half or a quarter of it: the last tile of an expert runs at the least of these heights that holds it.
    """
    if EARLY == 0:
        wait_for_previous(PDL)
    band: tl.constexpr = TILES_PER_BAND * tl.cdiv(N, COLS)
    tile = tl.program_id(0) // band * TILES_PER_BAND + tl.program_id(0) % TILES_PER_BAND
    first_column = tl.program_id(0) % band // TILES_PER_BAND * COLS
    # the entry is loaded before it is known to be in use: all loads at once, not one after the other, as the branch hangs on all.
    # The grid goes past the entries there are, so that the last of them is loaded instead
    used = tl.load(num_tiles, cache_modifier=".cg")
    entry = tiles + tl.minimum(tile, most_tiles - 1).to(tl.int64) * 3
    expert = tl.load(entry, cache_modifier=".cg")
    first_row = tl.load(entry + 1, cache_modifier=".cg")
    rows = tl.load(entry + 2, cache_modifier=".cg")
    if (tile >= used) | (expert < 0) | (expert >= experts) | (first_row < 0) | (rows <= 0):
        if EARLY:
            wait_for_previous(PDL)
        return
    early = None
    if EARLY:
        early = w_early.load([expert * N + first_column, 0])
        wait_for_previous(PDL)
    if MIN_ROWS == ROWS or rows > ROWS // 2:
        _product(
            x, x_tiles, x_early, early, x_scale, w, w_scale, y, y_scale, order,
            expert, first_row, rows, first_column, assignments, x_rows, K,
            x_scale_stride, w_scale_expert, w_scale_part, w_scale_col,
            N, GATED, GATHER, TOP_K, SCALED, BLOCKWISE, EVEN_K, STEP, ROWS, COLS, TMA, EARLY, LATE,
        )  # fmt: skip
    elif MIN_ROWS == ROWS // 2 or rows > ROWS // 4:
        _product(
            x, None, None, None, x_scale, w, w_scale, y, y_scale, order,
            expert, first_row, rows, first_column, assignments, x_rows, K,
            x_scale_stride, w_scale_expert, w_scale_part, w_scale_col,
            N, GATED, GATHER, TOP_K, SCALED, BLOCKWISE, EVEN_K, STEP, ROWS // 2, COLS, TMA, 0, True,
        )  # fmt: skip
    else:
        _product(
            x, None, None, None, x_scale, w, w_scale, y, y_scale, order,
            expert, first_row, rows, first_column, assignments, x_rows, K,
            x_scale_stride, w_scale_expert, w_scale_part, w_scale_col,
            N, GATED, GATHER, TOP_K, SCALED, BLOCKWISE, EVEN_K, STEP, ROWS // 4, COLS, TMA, 0, True,
        )  # fmt: skip

"""Weights as the tall side: acc (COLS, ROWS) = W (COLS, K) @ x^T (K, ROWS), so that wgmma serves every row count.

The order of summation along K is a function of the weight's format alone: ascending into one accumulator, or one per 128 columns
where scales are per block, whose steps are STEP = 128. Else STEP is free, as are ROWS, COLS, warps, stages and the order of the
programs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import block_scale, wait_for_previous


@triton.jit(do_not_specialize=["rows"])
def dense_gemm_kernel(
    x, x_scale, w, w_scale, bias, y, rows, N, K,
    SCALED: tl.constexpr, X_SCALE_STRIDE: tl.constexpr, BLOCKWISE: tl.constexpr, BIAS: tl.constexpr, EVEN_K: tl.constexpr, STEP: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, ONE_ROW_TILE: tl.constexpr, TILES_PER_BAND: tl.constexpr, TMA: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Grid (ceil(rows / ROWS) x ceil(N / COLS),), in bands of TILES_PER_BAND row tiles, so that programs at a time share both sides.

    TMA: x and w are descriptors with blocks of (ROWS, STEP) and (COLS, STEP), x's of rows behind it that have no meaning, too; else pointers. Loads
    past `rows` or N are such rows, clamped into the tensor or zero-filled; they only reach output lanes that the store masks out.
    ONE_ROW_TILE: there are no more rows than ROWS, and no divisions to find a program's place.
    X_SCALE_STRIDE: 1 where each row has a scale, 0 where all have one.
    """
    wait_for_previous(PDL)
    if ONE_ROW_TILE:
        first_row = 0
        first_column = tl.program_id(0) * COLS
    else:
        row_tiles = tl.cdiv(rows, ROWS)
        column_tiles = tl.cdiv(N, COLS)
        band = tl.program_id(0) // (TILES_PER_BAND * column_tiles)
        place = tl.program_id(0) % (TILES_PER_BAND * column_tiles)
        height = tl.minimum(row_tiles - band * TILES_PER_BAND, TILES_PER_BAND)
        first_row = (band * TILES_PER_BAND + place % height) * ROWS
        first_column = place // height * COLS
    row = first_row + tl.arange(0, ROWS)
    column = first_column + tl.arange(0, COLS)
    live = row < rows
    written = column < N
    safe_row = tl.where(live, row, 0).to(tl.int64)
    safe_column = tl.where(written, column, 0).to(tl.int64)
    k = tl.arange(0, STEP)
    if not TMA:
        x_at = x + safe_row[:, None] * K + k[None, :]
        w_at = w + safe_column[:, None] * K + k[None, :]
    if SCALED:
        token_scale = tl.load(x_scale + safe_row * X_SCALE_STRIDE)
        channel_scale = tl.load(w_scale + safe_column)
    if BLOCKWISE:
        # a step's scales are loaded one step ahead; a tile's columns are of one block of 128
        k_blocks = tl.cdiv(K, 128)
        row_block = first_column // 128
        scale = block_scale(w_scale, x_scale, safe_row, live, row_block, 0, k_blocks)
    acc = tl.zeros((COLS, ROWS), tl.float32)
    for step in range(tl.cdiv(K, STEP)):
        if TMA:
            b = w.load([first_column, step * STEP])
            a = x.load([first_row, step * STEP])
        else:
            inside = k[None, :] < K - step * STEP
            a = tl.load(x_at, mask=live[:, None] if EVEN_K else live[:, None] & inside, other=0.0)
            b = tl.load(w_at) if EVEN_K else tl.load(w_at, mask=inside, other=0.0)
            x_at += STEP
            w_at += STEP
        if BLOCKWISE:
            next_scale = block_scale(w_scale, x_scale, safe_row, live, row_block, step + 1, k_blocks)
            acc += tl.dot(b, tl.trans(a)) * scale[None, :]
            scale = next_scale
        else:
            acc = tl.dot(b, tl.trans(a), acc)
    if SCALED:
        acc *= channel_scale[:, None] * token_scale[None, :]
    if BIAS:
        acc += tl.load(bias + safe_column).to(tl.float32)[:, None]
    out = tl.trans(acc.to(y.dtype.element_ty))
    y_at = y + row.to(tl.int64)[:, None] * N + column[None, :]
    tl.store(y_at, out, mask=live[:, None] & written[None, :])

"""Rows to FP8. A maximum is the same in any order; a sum is not, so a row with a sum has a program of its own."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.kernels.codes import encode, held, magnitude, scale_of
from octavo.kernels.device import follow, is_finite, live_rows, run_beside, silu


@triton.jit
def _store_groups(
    x, row, live, column, width, q, scales, groups, ROWS: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr
):
    """Quantise x (ROWS, BLOCK) f32 in GROUPS groups a row, one scale each; lanes from `width` on hold zeros."""
    span: tl.constexpr = BLOCK // GROUPS
    parts: tl.constexpr = ROWS * GROUPS
    grouped = tl.reshape(x, (parts, span))
    scale = scale_of(tl.max(magnitude(grouped), 1))
    code = tl.reshape(encode(grouped, scale), (ROWS, BLOCK))
    inside = live[:, None] & (column < width)[None, :]
    tl.store(q + row[:, None] * width + column[None, :], code, mask=inside)
    group = tl.arange(0, GROUPS)
    scale = tl.reshape(scale, (ROWS, GROUPS))
    tl.store(scales + row[:, None] * groups + group[None, :], scale, mask=live[:, None] & (group < groups)[None, :])


@triton.jit
def _store_row(x, column, width, q, scales, row, groups, GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    """`_store_groups` of one live row x (BLOCK,)."""
    rows = row + tl.zeros((1,), tl.int64)
    _store_groups(x[None, :], rows, rows >= 0, column, width, q, scales, groups, 1, GROUPS, BLOCK)


@triton.jit
def _rows(x, count, rows, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """This program's rows (ROWS,), which of them are live, the columns (BLOCK,), and their values f32, zeros elsewhere."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = row < live_rows(count, rows)
    column = tl.arange(0, BLOCK)
    inside = live[:, None] & (column < width)[None, :]
    value = tl.load(x + row[:, None] * width + column[None, :], mask=inside, other=0.0).to(tl.float32)
    return row, live, column, value


@triton.jit(do_not_specialize=["rows"])
def quantize_kernel(
    x,
    q,
    scales,
    count,
    rows,
    width,
    groups,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
    BESIDE: tl.constexpr,
    PDL: tl.constexpr,
):
    """Grid (ceil(R / ROWS),). x (R, width) bf16."""
    if BESIDE:
        run_beside(PDL)
    else:
        follow(PDL)
    row, live, column, value = _rows(x, count, rows, width, ROWS, BLOCK)
    _store_groups(value, row, live, column, width, q, scales, groups, ROWS, GROUPS, BLOCK)
    if BESIDE:
        follow(PDL)


@triton.jit(do_not_specialize=["rows"])
def quantize_static_kernel(
    x,
    q,
    scale,
    count,
    rows,
    width,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    BESIDE: tl.constexpr,
    PDL: tl.constexpr,
):
    """Grid (ceil(R / ROWS),). One known scale; NaN becomes the code of NaN."""
    if BESIDE:
        run_beside(PDL)
    else:
        follow(PDL)
    row, live, column, value = _rows(x, count, rows, width, ROWS, BLOCK)
    code = held(tl.div_rn(value, tl.broadcast_to(tl.load(scale), (ROWS, BLOCK))))
    code = code.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    code = tl.where(is_finite(value), code, 0x7F).to(tl.uint8)
    inside = live[:, None] & (column < width)[None, :]
    tl.store(q + row[:, None] * width + column[None, :], code.to(tl.float8e4nv, bitcast=True), mask=inside)
    if BESIDE:
        follow(PDL)


@triton.jit(do_not_specialize=["rows"])
def rms_norm_quantize_kernel(
    x,
    weight,
    normed,
    q,
    scales,
    count,
    eps,
    rows,
    width,
    groups,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Grid (R,). Rounds to bf16 after the division and after the weight, as the separate layers do."""
    follow(PDL)
    row = tl.program_id(0).to(tl.int64)
    if row >= live_rows(count, rows):
        return
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + row * width + column, mask=inside, other=0.0).to(tl.float32)
    mean = tl.div_rn(tl.sum(value * value, 0), width.to(tl.float32))
    value = tl.div_rn(value, tl.broadcast_to(tl.sqrt_rn(mean + eps), (BLOCK,))).to(tl.bfloat16).to(tl.float32)
    value *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    value = value.to(tl.bfloat16)
    tl.store(normed + row * width + column, value, mask=inside)
    _store_row(value.to(tl.float32), column, width, q, scales, row, groups, GROUPS, BLOCK)


@triton.jit(do_not_specialize=["rows"])
def swiglu_quantize_kernel(
    x,
    q,
    scales,
    count,
    rows,
    width,
    groups,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Grid (R,). x (R, 2 width) bf16, gate first."""
    follow(PDL)
    row = tl.program_id(0).to(tl.int64)
    if row >= live_rows(count, rows):
        return
    column = tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(x + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    value = (silu(gate) * up).to(tl.bfloat16).to(tl.float32)
    _store_row(value, column, width, q, scales, row, groups, GROUPS, BLOCK)

"""Rows to FP8. A maximum is the same in any order; a sum is not, so a row with a sum has a program of its own."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops import activations
from octavo.ops.device import (
    is_finite,
    launch_next_and_wait,
    launch_next_early,
    load_rows_in_use,
    silu,
    wait_for_previous,
)
from octavo.ops.quantize import rule

FP8_MAX = tl.constexpr(activations.FP8_MAX)
ZERO_SCALE = tl.constexpr(rule.ZERO_SCALE)
MIN_SCALE = tl.constexpr(rule.MIN_SCALE)
NAN_CODE = tl.constexpr(rule.NAN_CODE)
SMALL_SCALE = tl.constexpr(8.673617379884035e-19)
"""2^-60: below it the remainder of a division may be subnormal."""

LIFT = tl.constexpr(2.0**70)
"""A small scale times this is none, and 448 times that is finite."""


@triton.jit
def magnitude(x):
    """|x| as an integer, int32 of f32: NaN and infinity are above every finite one, so one maximum finds all."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def scale_of(top):
    """`rule.scales_of` of values whose largest magnitude is `top` int32."""
    amax = top.to(tl.float32, bitcast=True)
    scale = tl.maximum(tl.div_rn(amax, tl.cast(FP8_MAX, tl.float32)), MIN_SCALE)
    scale = tl.where(top == 0, ZERO_SCALE, scale)
    return tl.where(top < 0x7F800000, scale, float("nan"))


@triton.jit
def _divide(x, scale, is_small):
    """x / scale for |x| <= 448 scale, rounded as a division is, at a fifth of its instructions; scale is one for all x, or (rows, 1).

    A product with the rounded inverse, and one correction by what it is off (Markstein, Computation of elementary functions
    on the IBM RISC System/6000 processor, 1990): right for every bf16 x and every scale made from one, which the tests show
    for all pairs of mantissas. Where what it is off might be subnormal, as below `SMALL_SCALE`, it is a division.
    """
    if is_small:
        result = tl.div_rn(x, tl.broadcast_to(scale, x.shape))
    else:
        # the sign is taken from the inverse: minus zero is subtracted from zero on the device
        inverse = tl.div_rn(tl.cast(1.0, tl.float32), scale)
        minus_inverse = tl.div_rn(tl.cast(-1.0, tl.float32), scale)
        quotient = x * inverse
        result = tl.fma(tl.fma(quotient, scale, -x), minus_inverse, quotient)
    return result


@triton.jit
def quotients(x, scale):
    """x / scale (rows, 1), as `_divide`, whatever the scale, without a branch: where it is small, both are made larger first, which changes no quotient."""
    lift = tl.where(scale < SMALL_SCALE, LIFT, 1.0)
    return _divide(x * lift, scale * lift, False)


@triton.jit
def round_groups(value):
    """value (rows, columns) f32 that bf16 holds -> its codes fp8 and the scale (rows,) f32 of each row."""
    scale = scale_of(tl.max(magnitude(value), 1))
    code = tl.where((scale == scale)[:, None], quotients(value, scale[:, None]), 0.0)
    return code.to(tl.float8e4nv), scale


@triton.jit
def _encode(x, scale):
    """The codes fp8 of x (rows, columns) f32 at its scale (rows,) f32; 0 where the scale is NaN."""
    is_small = tl.max((scale < SMALL_SCALE).to(tl.int32)) > 0
    code = tl.where((scale == scale)[:, None], _divide(x, scale[:, None], is_small), 0.0)
    return code.to(tl.float8e4nv)


@triton.jit
def static_codes(x, scale):
    """`rule.static_codes` of x (rows, columns) f32 at its scale () f32."""
    code = tl.div_rn(x, tl.full(x.shape, scale, tl.float32))
    code = tl.minimum(tl.maximum(code, -FP8_MAX), FP8_MAX)
    code = code.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    return tl.where(is_finite(x), code, NAN_CODE).to(tl.uint8).to(tl.float8e4nv, bitcast=True)


@triton.jit
def store_groups(
    x, row, live, column, width, q, scales, groups, ROWS: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr
):
    """Quantise x (ROWS, BLOCK) f32 in GROUPS groups a row, one scale each; lanes from `width` on hold zeros."""
    span: tl.constexpr = BLOCK // GROUPS
    parts: tl.constexpr = ROWS * GROUPS
    grouped = tl.reshape(x, (parts, span))
    scale = scale_of(tl.max(magnitude(grouped), 1))
    code = tl.reshape(_encode(grouped, scale), (ROWS, BLOCK))
    inside = live[:, None] & (column < width)[None, :]
    tl.store(q + row[:, None] * width + column[None, :], code, mask=inside)
    group = tl.arange(0, GROUPS)
    scale = tl.reshape(scale, (ROWS, GROUPS))
    tl.store(scales + row[:, None] * groups + group[None, :], scale, mask=live[:, None] & (group < groups)[None, :])


@triton.jit
def store_row(x, column, width, q, scales, row, groups, GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    """`store_groups` of one live row x (BLOCK,)."""
    if GROUPS == 1:
        # as it is: as a matrix of one row it would go through shared memory
        scale = scale_of(tl.max(magnitude(x), 0))
        code = tl.where(scale == scale, _divide(x, scale, scale < SMALL_SCALE), 0.0)
        tl.store(q + row * width + column, code.to(tl.float8e4nv), mask=column < width)
        tl.store(scales + row * groups, scale)
    else:
        rows = row + tl.zeros((1,), tl.int64)
        store_groups(x[None, :], rows, rows >= 0, column, width, q, scales, groups, 1, GROUPS, BLOCK)


@triton.jit
def _rows(x, rows_in_use, rows, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """This program's rows (ROWS,), which of them are live, the columns (BLOCK,), and their values f32, zeros elsewhere."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = row < load_rows_in_use(rows_in_use, rows)
    column = tl.arange(0, BLOCK)
    inside = live[:, None] & (column < width)[None, :]
    value = tl.load(x + row[:, None] * width + column[None, :], mask=inside, other=0.0).to(tl.float32)
    return row, live, column, value


@triton.jit(do_not_specialize=["rows"])
def quantize_kernel(
    x,
    q,
    scales,
    rows_in_use,
    rows,
    width,
    groups,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP_PREVIOUS: tl.constexpr,
    PDL: tl.constexpr,
):
    """Grid (ceil(R / ROWS),). x (R, width) bf16."""
    if OVERLAP_PREVIOUS:
        launch_next_early(PDL)
    else:
        launch_next_and_wait(PDL)
    if ROWS == 1:
        row = tl.program_id(0).to(tl.int64)
        if row < load_rows_in_use(rows_in_use, rows):
            column = tl.arange(0, BLOCK)
            value = tl.load(x + row * width + column, mask=column < width, other=0.0).to(tl.float32)
            store_row(value, column, width, q, scales, row, groups, GROUPS, BLOCK)
    else:
        row, live, column, value = _rows(x, rows_in_use, rows, width, ROWS, BLOCK)
        store_groups(value, row, live, column, width, q, scales, groups, ROWS, GROUPS, BLOCK)
    if OVERLAP_PREVIOUS:
        wait_for_previous(PDL)


@triton.jit(do_not_specialize=["rows"])
def quantize_static_kernel(
    x,
    q,
    scale,
    rows_in_use,
    rows,
    width,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP_PREVIOUS: tl.constexpr,
    PDL: tl.constexpr,
):
    """Grid (ceil(R / ROWS),). One known scale; NaN becomes the code of NaN."""
    if OVERLAP_PREVIOUS:
        launch_next_early(PDL)
    else:
        launch_next_and_wait(PDL)
    row, live, column, value = _rows(x, rows_in_use, rows, width, ROWS, BLOCK)
    inside = live[:, None] & (column < width)[None, :]
    tl.store(q + row[:, None] * width + column[None, :], static_codes(value, tl.load(scale)), mask=inside)
    if OVERLAP_PREVIOUS:
        wait_for_previous(PDL)


@triton.jit(do_not_specialize=["rows"])
def swiglu_quantize_kernel(
    x,
    q,
    scales,
    rows_in_use,
    rows,
    width,
    groups,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Grid (R,). x (R, 2 width) bf16, gate first."""
    launch_next_and_wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    if row >= load_rows_in_use(rows_in_use, rows):
        return
    column = tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(x + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    value = (silu(gate) * up).to(tl.bfloat16).to(tl.float32)
    store_row(value, column, width, q, scales, row, groups, GROUPS, BLOCK)

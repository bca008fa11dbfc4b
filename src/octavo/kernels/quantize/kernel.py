"""One row, one program: reductions have one tree per row width, whatever the batch."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.kernels.device import follow, is_finite, live_rows, silu

FP8_MAX = tl.constexpr(448.0)
ZERO_SCALE = tl.constexpr(1.1920928955078125e-07)
MIN_SCALE = tl.constexpr(1.1754943508222875e-38)


@triton.jit
def _codes(x, scale):
    return tl.minimum(tl.maximum(tl.div_rn(x, scale), -FP8_MAX), FP8_MAX)


@triton.jit
def _store_groups(x, column, width, q, scales, row, groups, GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    """Quantise x (BLOCK,) f32 in GROUPS groups, one scale each; lanes from `width` on hold zeros."""
    span: tl.constexpr = BLOCK // GROUPS
    finite = tl.min(tl.reshape(is_finite(x).to(tl.int32), (GROUPS, span)), 1) > 0
    grouped = tl.reshape(x, (GROUPS, span))
    grouped = tl.where(finite[:, None], grouped, 0.0)
    amax = tl.max(tl.abs(grouped), 1)
    scale = tl.maximum(tl.div_rn(amax, tl.full((GROUPS,), FP8_MAX, tl.float32)), MIN_SCALE)
    scale = tl.where(amax == 0.0, ZERO_SCALE, scale)
    code = tl.reshape(_codes(grouped, tl.broadcast_to(scale[:, None], (GROUPS, span))), (BLOCK,))
    tl.store(q + row * width + column, code.to(tl.float8e4nv), mask=column < width)
    group = tl.arange(0, GROUPS)
    tl.store(scales + row * groups + group, tl.where(finite, scale, float("nan")), mask=group < groups)


@triton.jit(do_not_specialize=["rows"])
def quantize_kernel(
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
    """Grid (R,). x (R, width) bf16."""
    follow(PDL)
    row = tl.program_id(0).to(tl.int64)
    if row >= live_rows(count, rows):
        return
    column = tl.arange(0, BLOCK)
    value = tl.load(x + row * width + column, mask=column < width, other=0.0).to(tl.float32)
    _store_groups(value, column, width, q, scales, row, groups, GROUPS, BLOCK)


@triton.jit(do_not_specialize=["rows"])
def quantize_static_kernel(
    x,
    q,
    scale,
    count,
    rows,
    width,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Grid (R,). One known scale; NaN becomes the code of NaN."""
    follow(PDL)
    row = tl.program_id(0).to(tl.int64)
    if row >= live_rows(count, rows):
        return
    column = tl.arange(0, BLOCK)
    value = tl.load(x + row * width + column, mask=column < width, other=0.0).to(tl.float32)
    code = _codes(value, tl.broadcast_to(tl.load(scale), (BLOCK,)))
    code = code.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    code = tl.where(is_finite(value), code, 0x7F).to(tl.uint8)
    tl.store(q + row * width + column, code.to(tl.float8e4nv, bitcast=True), mask=column < width)


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
    _store_groups(value.to(tl.float32), column, width, q, scales, row, groups, GROUPS, BLOCK)


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
    _store_groups(value, column, width, q, scales, row, groups, GROUPS, BLOCK)

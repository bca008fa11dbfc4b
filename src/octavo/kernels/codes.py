"""FP8 codes of rows, for every kernel that makes them: the same scale and the same code, wherever a row is quantised."""

from __future__ import annotations

import triton
import triton.language as tl

FP8_MAX = tl.constexpr(448.0)
ZERO_SCALE = tl.constexpr(1.1920928955078125e-07)
MIN_SCALE = tl.constexpr(1.1754943508222875e-38)
SMALL_SCALE = tl.constexpr(8.673617379884035e-19)
"""2^-60: below it the remainder of a division may be subnormal."""
BOOST = tl.constexpr(1.8446744073709552e19)
"""2^64"""


@triton.jit
def magnitude(x):
    """|x| as an integer, int32 of f32: NaN and infinity are above every finite one, so one maximum finds all."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def scale_of(top):
    """The scale f32 of values whose largest magnitude is `top` int32; NaN where one is not finite."""
    amax = top.to(tl.float32, bitcast=True)
    scale = tl.maximum(tl.div_rn(amax, tl.full(top.shape, FP8_MAX, tl.float32)), MIN_SCALE)
    scale = tl.where(top == 0, ZERO_SCALE, scale)
    return tl.where(top < 0x7F800000, scale, float("nan"))


@triton.jit
def held(code):
    """`code` within +-448"""
    return tl.minimum(tl.maximum(code, -FP8_MAX), FP8_MAX)


@triton.jit
def _divide(x, scale):
    """x / scale for |x| <= 448 scale, rounded as a division is, at a third of its instructions.

    A product with the rounded inverse, and one correction by what it is off (Markstein, Computation of elementary functions
    on the IBM RISC System/6000 processor, 1990): right for every bf16 x and every scale made from one, which the tests show
    for all pairs of mantissas. A power of two keeps what is off normal; the signs keep that of zero.
    """
    boost = tl.where(scale < SMALL_SCALE, BOOST, 1.0)
    scale = scale * boost
    inverse = tl.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale)
    x = x * boost
    quotient = x * inverse
    excess = tl.fma(quotient, scale, -x)
    return tl.fma(-excess, inverse, quotient)


@triton.jit
def encode(x, scale):
    """The codes fp8 of x (rows, columns) f32 at scale (rows,) f32; 0 where the scale is NaN."""
    code = held(_divide(x, scale[:, None]))
    return tl.where((scale == scale)[:, None], code, 0.0).to(tl.float8e4nv)

"""Products on tensor cores that keep a float32 whole: it is the exact sum of three bf16."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _top(x):
    """The first eight bits of each x (float32) as float32, and as bf16."""
    bits = x.to(tl.int32, bitcast=True)
    # by its bits, exactly: conversions that round would be one instruction for each number and part
    return (bits & -65536).to(tl.float32, bitcast=True), (bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)


@triton.jit
def split(x):
    """Three bf16 whose sum is x (float32): the largest first."""
    wide, high = _top(x)
    rest = x - wide
    wide, middle = _top(rest)
    return high, middle, _top(rest - wide)[1]


@triton.jit
def _total(sums, SLICES: tl.constexpr):
    """The sum of as many sums: of each two neighbours, then of those."""
    if SLICES == 4:
        return (sums[0] + sums[1]) + (sums[2] + sums[3])
    elif SLICES == 2:
        return sums[0] + sums[1]
    else:
        return sums[0]


@triton.jit
def products(left, right, other, SLICES: tl.constexpr):
    """left @ right and left @ other in float32, of left in float32 and the others in bf16, all in SLICES along K (1, 2 or 4), each of which has a sum of its own."""
    ones, twos = (), ()
    for index in tl.static_range(SLICES):
        high, middle, low = split(left[index])
        one, two = tl.dot(low, right[index]), tl.dot(low, other[index])
        one, two = tl.dot(middle, right[index], one), tl.dot(middle, other[index], two)
        ones += (tl.dot(high, right[index], one),)
        twos += (tl.dot(high, other[index], two),)
    return _total(ones, SLICES), _total(twos, SLICES)


@triton.jit
def float_product(left, other_high, other_middle, other_low):
    """left in float32 @ the sum of the others, its parts, but for products below 2^-24 of the largest; the least products have a sum of their own."""
    high, middle, low = split(left)
    least = tl.dot(middle, other_middle, tl.dot(high, other_low, tl.dot(low, other_high)))
    return tl.dot(high, other_high, tl.dot(high, other_middle, tl.dot(middle, other_high))) + least


@triton.jit
def move(now, kept, change, k, SLICES: tl.constexpr):
    """now x kept (rows, 1) + change @ k in float32, k in bf16; now and k in SLICES along the columns."""
    high, middle, low = split(change)
    moved = ()
    for index in tl.static_range(SLICES):
        total = now[index] * kept
        moved += (tl.dot(high, k[index], tl.dot(middle, k[index], tl.dot(low, k[index], total))),)
    return moved

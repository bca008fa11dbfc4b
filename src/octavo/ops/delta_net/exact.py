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
def _sum(x, y):
    """x + y: written so that Triton does not have the products of x or y go on from the other's sum, one behind the other."""
    return tl.fma(x, tl.full(x.shape, 1.0, tl.float32), y)


@triton.jit
def products(left, right, other):
    """left @ right and left @ other in float32, of left in float32 and the others in bf16; the products of each part by themselves."""
    high, middle, low = split(left)
    one = _sum(_sum(tl.dot(low, right), tl.dot(middle, right)), tl.dot(high, right))
    two = _sum(_sum(tl.dot(low, other), tl.dot(middle, other)), tl.dot(high, other))
    return one, two


@triton.jit
def float_product(left, other_high, other_middle, other_low):
    """left in float32 @ the sum of the others, its parts, but for products below 2^-24 of the largest; the products of each pair by themselves."""
    high, middle, low = split(left)
    least = _sum(_sum(tl.dot(low, other_high), tl.dot(high, other_low)), tl.dot(middle, other_middle))
    less = _sum(tl.dot(middle, other_high), tl.dot(high, other_middle))
    return _sum(_sum(least, less), tl.dot(high, other_high))


@triton.jit
def move(now, change, k):
    """now + change @ k in float32, k in bf16."""
    high, middle, low = split(change)
    return tl.dot(high, k, tl.dot(middle, k, tl.dot(low, k, now)))

"""Products on tensor cores of float32, each number as the sum of two bf16: 16 of its 24 bits, which is within 2^-15 of it."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def split(x):
    """Two bf16 whose sum is x (float32) but for 2^-15 of it: the larger first."""
    bits = x.to(tl.int32, bitcast=True)
    # its first eight bits, by bits: rounding could leave the range of bf16
    high = (bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return high, (x - (bits & -65536).to(tl.float32, bitcast=True)).to(tl.bfloat16)


@triton.jit
def _sum(x, y):
    """x + y: written so that Triton does not have the products of x or y go on from the other's sum, one behind the other."""
    return tl.fma(x, tl.full(x.shape, 1.0, tl.float32), y)


@triton.jit
def products(left, right, other):
    """left @ right and left @ other in float32, of left in float32 and the others in bf16; the products of each part by themselves."""
    high, low = split(left)
    return _sum(tl.dot(low, right), tl.dot(high, right)), _sum(tl.dot(low, other), tl.dot(high, other))


@triton.jit
def float_product(left, other_high, other_low):
    """left in float32 @ the sum of the others, its parts; the products of each pair by themselves."""
    high, low = split(left)
    less = _sum(_sum(tl.dot(low, other_low), tl.dot(low, other_high)), tl.dot(high, other_low))
    return _sum(less, tl.dot(high, other_high))


@triton.jit
def move(now, change, k):
    """now + change @ k in float32, k in bf16."""
    high, low = split(change)
    return tl.dot(high, k, tl.dot(low, k, now))

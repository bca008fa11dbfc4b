"""Masses of ids summed segment by segment, and the one id that a number falls on. Sums of integers have no order."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import wait_for_previous
from octavo.ops.draw import fixed_point

ONE = tl.constexpr(float(fixed_point.ONE))
ROUND = tl.constexpr(2.0**52)
"""A float64 below it has no room for a fraction once it is added: the sum is rounded to the nearest whole, ties to even."""


@triton.jit
def _masses(logits, row, column, width, highest, temperature, least):
    """(BLOCK,) int64: `masses` of some columns of a row; 0 past its end."""
    inside = column < width
    x = tl.load(logits + row * width + column, mask=inside, other=float("-inf")).to(tl.float64)
    share = tl.exp((x - highest) / temperature) * ONE
    mass = ((share + ROUND) - ROUND).to(tl.int64)
    return tl.where(inside & (mass.to(tl.float64) >= least), mass, 0)


@triton.jit
def _settings(highest, temperature, min_p, row):
    """Of a row, float64: the largest logit, the temperature, and the least mass that counts."""
    top = tl.load(highest + row).to(tl.float64)
    return top, tl.load(temperature + row), tl.load(min_p + row) * ONE


@triton.jit(do_not_specialize=["segments"])
def sum_masses_kernel(
    logits, highest, temperature, min_p, sums, width, segments, SEGMENT: tl.constexpr, PDL: tl.constexpr
):
    """Grid (R x segments,): sums[row, segment] of SEGMENT columns. logits (R, width) f32."""
    wait_for_previous(PDL)
    row = (tl.program_id(0) // segments).to(tl.int64)
    segment = tl.program_id(0) % segments
    top, heat, least = _settings(highest, temperature, min_p, row)
    mass = _masses(logits, row, segment * SEGMENT + tl.arange(0, SEGMENT), width, top, heat, least)
    tl.store(sums + row * segments + segment, tl.sum(mass, 0))


@triton.jit(do_not_specialize=["segments"])
def draw_kernel(
    logits, highest, temperature, min_p, numbers, sums, out, width, segments,
    SEGMENT: tl.constexpr, SEGMENTS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (R,): the segment whose cumulative mass passes the number, then the id in it. SEGMENTS: power of two >= segments."""
    wait_for_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, SEGMENTS)
    held = tl.load(sums + row * segments + place, mask=place < segments, other=0)
    total = tl.sum(held, 0)
    target = tl.minimum((tl.load(numbers + row) * total.to(tl.float64)).to(tl.int64), total - 1)
    passed = tl.cumsum(held, 0) <= target
    segment = tl.minimum(tl.sum(passed.to(tl.int32), 0), segments - 1)
    left = target - tl.sum(tl.where(passed, held, 0), 0)
    top, heat, least = _settings(highest, temperature, min_p, row)
    column = segment * SEGMENT + tl.arange(0, SEGMENT)
    mass = _masses(logits, row, column, width, top, heat, least)
    found = segment * SEGMENT + tl.sum((tl.cumsum(mass, 0) <= left).to(tl.int32), 0)
    tl.store(out + row, tl.minimum(found, width - 1).to(tl.int64))

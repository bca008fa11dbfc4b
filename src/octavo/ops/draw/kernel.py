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
def heat(settings, rows, row):
    """Of a row, float64: the temperature, and the least mass that counts."""
    return tl.load(settings + row), tl.load(settings + rows + row) * ONE


@triton.jit
def to_mass(x, highest, temperature, least):
    """int64: as `cpu._masses` has it; x float64."""
    share = tl.exp((x - highest) / temperature) * ONE
    mass = ((share + ROUND) - ROUND).to(tl.int64)
    return tl.where(mass.to(tl.float64) >= least, mass, 0)


@triton.jit
def target_of(settings, rows, row, total):
    """int64: the mass that lies before the drawn id, or within it."""
    return tl.minimum((tl.load(settings + 4 * rows + row) * total.to(tl.float64)).to(tl.int64), total - 1)


@triton.jit
def _masses(logits, row, column, width, highest, temperature, least):
    """(BLOCK,) int64 of some columns of a row; 0 past its end."""
    inside = column < width
    x = tl.load(logits + row * width + column, mask=inside, other=float("-inf")).to(tl.float64)
    return tl.where(inside, to_mass(x, highest, temperature, least), 0)


@triton.jit(do_not_specialize=["rows", "segments"])
def sum_masses_kernel(logits, highest, settings, sums, rows, width, segments, SEGMENT: tl.constexpr, PDL: tl.constexpr):
    """Grid (R x segments,): sums[row, segment] of SEGMENT columns. logits (R, width) f32, settings (5, R) f64."""
    wait_for_previous(PDL)
    row = (tl.program_id(0) // segments).to(tl.int64)
    segment = tl.program_id(0) % segments
    temperature, least = heat(settings, rows, row)
    top = tl.load(highest + row).to(tl.float64)
    mass = _masses(logits, row, segment * SEGMENT + tl.arange(0, SEGMENT), width, top, temperature, least)
    tl.store(sums + row * segments + segment, tl.sum(mass, 0))


@triton.jit(do_not_specialize=["rows", "segments"])
def draw_kernel(
    logits, highest, settings, sums, out, rows, width, segments,
    SEGMENT: tl.constexpr, SEGMENTS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (R,): the segment whose cumulative mass passes the number, then the id in it. SEGMENTS: power of two >= segments."""
    wait_for_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, SEGMENTS)
    held = tl.load(sums + row * segments + place, mask=place < segments, other=0)
    target = target_of(settings, rows, row, tl.sum(held, 0))
    passed = tl.cumsum(held, 0) <= target
    segment = tl.minimum(tl.sum(passed.to(tl.int32), 0), segments - 1)
    left = target - tl.sum(tl.where(passed, held, 0), 0)
    temperature, least = heat(settings, rows, row)
    top = tl.load(highest + row).to(tl.float64)
    column = segment * SEGMENT + tl.arange(0, SEGMENT)
    mass = _masses(logits, row, column, width, top, temperature, least)
    found = segment * SEGMENT + tl.sum((tl.cumsum(mass, 0) <= left).to(tl.int32), 0)
    tl.store(out + row, tl.minimum(found, width - 1).to(tl.int64))


@triton.jit(do_not_specialize=["rows", "count"])
def draw_sorted_kernel(logits, ids, settings, out, rows, width, count, COUNT: tl.constexpr, PDL: tl.constexpr):
    """Grid (R,): one of the `count` ids (R, count) i64 of a row, the likeliest first. COUNT: power of two >= count."""
    wait_for_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, COUNT)
    inside = place < count
    column = tl.load(ids + row * count + place, mask=inside, other=0)
    column = tl.minimum(tl.maximum(column, 0), width - 1)
    x = tl.load(logits + row * width + column, mask=inside, other=float("-inf")).to(tl.float64)
    temperature, least = heat(settings, rows, row)
    mass = to_mass(x, tl.max(x, 0), temperature, least)
    top_k = tl.load(settings + 2 * rows + row)
    mass = tl.where(inside & ((top_k <= 0) | (place < top_k)), mass, 0)
    limit = tl.load(settings + 3 * rows + row) * tl.sum(mass, 0).to(tl.float64)
    mass = tl.where((tl.cumsum(mass, 0) - mass).to(tl.float64) >= limit, 0, mass)
    target = target_of(settings, rows, row, tl.sum(mass, 0))
    found = tl.minimum(tl.sum((tl.cumsum(mass, 0) <= target).to(tl.int32), 0), count - 1)
    tl.store(out + row, tl.sum(tl.where(place == found, column, 0), 0))

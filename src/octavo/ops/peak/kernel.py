"""The largest number of a row, first of its segments, then of those."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import is_finite, wait_for_previous

FINITE = tl.constexpr(0)
INFINITE = tl.constexpr(1)
NAN = tl.constexpr(2)
"""What is worst in a row, in the order of how bad."""
NOWHERE = tl.constexpr(2**31 - 1)


@triton.jit
def _write(row, highest, column, worst, finite, highests, columns):
    """The results of a row. finite uint8, highests f32, columns int64."""
    tl.store(finite + row, (worst == FINITE).to(tl.uint8))
    tl.store(highests + row, tl.where(worst == NAN, float("nan"), highest))
    tl.store(columns + row, column.to(tl.int64))


@triton.jit(do_not_specialize=["width", "segments"])
def peak_kernel(
    rows, tops, places, flaws, finite, highests, columns, width, segments,
    SEGMENT: tl.constexpr, ALONE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (R x segments,): the largest of SEGMENT columns each. rows (R, width) f32 or bf16; tops f32, places and flaws int32 (R, segments).

    ALONE: a row is one segment, and its results are written at once.
    """
    wait_for_previous(PDL)
    row = (tl.program_id(0) // segments).to(tl.int64)
    segment = tl.program_id(0) % segments
    column = segment * SEGMENT + tl.arange(0, SEGMENT)
    inside = column < width
    x = tl.load(rows + row * width + column, mask=inside, other=float("-inf")).to(tl.float32)
    flaw = tl.where(is_finite(x) | (column >= width), FINITE, tl.where(x == x, INFINITE, NAN))
    x = tl.where(x == x, x, float("-inf"))
    top = tl.max(x, 0)
    place = tl.min(tl.where((x == top) & inside, column, NOWHERE), 0)
    worst = tl.max(flaw, 0)
    if ALONE:
        _write(row, top, place, worst, finite, highests, columns)
    else:
        at = row * segments + segment
        tl.store(tops + at, top)
        tl.store(places + at, place)
        tl.store(flaws + at, worst)


@triton.jit(do_not_specialize=["segments"])
def merge_peaks_kernel(
    tops, places, flaws, finite, highests, columns, segments, SEGMENTS: tl.constexpr, PDL: tl.constexpr
):
    """Grid (R,): the peak of a row's segments. SEGMENTS: a power of two of at least as many."""
    wait_for_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    segment = tl.arange(0, SEGMENTS)
    at = row * segments + segment
    inside = segment < segments
    tops_here = tl.load(tops + at, mask=inside, other=float("-inf"))
    places_here = tl.load(places + at, mask=inside, other=NOWHERE)
    top = tl.max(tops_here, 0)
    place = tl.min(tl.where(tops_here == top, places_here, NOWHERE), 0)
    worst = tl.max(tl.load(flaws + at, mask=inside, other=FINITE), 0)
    _write(row, top, place, worst, finite, highests, columns)

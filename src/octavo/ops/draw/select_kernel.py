"""A draw among the likeliest without a sort: how much mass lies in each bin of logits, then the one key in the bin that matters.

A bin is a range of (max x - x) / T, the likeliest first, and the last all that is far below; a key orders the ids of a row by logit
and then by id, and no two of a row are equal. Each question (top_k, top_p, the draw) asks for the key up to which counts or
masses reach a goal: the sums of whole bins say in which bin it is, and its keys are bisected.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops import sort_keys
from octavo.ops.device import wait_for_previous
from octavo.ops.draw.kernel import heat, target_of, to_mass

LOW_BITS = tl.constexpr(sort_keys.LOW_BITS)
BINS_PER_UNIT = tl.constexpr(32.0)
"""Of (max x - x) / T."""
LEAST_KEY, MOST_KEY = tl.constexpr(-(2**63)), tl.constexpr(2**63 - 1)


@triton.jit
def _bin_of(x, highest, temperature, BINS: tl.constexpr):
    """int32 in 0..BINS-1, never less for a smaller x: the last for all that is far below, or NaN."""
    place = (highest - x) / temperature * BINS_PER_UNIT
    return tl.where(place < BINS - 1, tl.maximum(place, 0.0), BINS - 1.0).to(tl.int32)


@triton.jit
def _key_of(x, column, width):
    """int64: as `sort_keys` has it; x f32."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) << 32) + (width - 1 - column)


@triton.jit
def _add_to_bins(sums, row, place, value, inside, BINS: tl.constexpr):
    """Add (BLOCK,) values to the bins of a row. Most ids are in the last, which is summed first: one addition for all of them."""
    near = inside & (place < BINS - 1)
    tl.atomic_add(sums + row * BINS + place, value, mask=near, sem="relaxed")
    tl.atomic_add(
        sums + row * BINS + BINS - 1, tl.sum(tl.where(inside & (place == BINS - 1), value, 0), 0), sem="relaxed"
    )


@triton.jit(do_not_specialize=["rows", "segments"])
def bin_masses_kernel(
    logits, highest, settings, masses, counts, rows, width, segments,
    SEGMENT: tl.constexpr, BINS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (R x segments,): adds to masses and counts (R, BINS) i64 those of SEGMENT columns; counts may be None."""
    wait_for_previous(PDL)
    row = (tl.program_id(0) // segments).to(tl.int64)
    column = tl.program_id(0) % segments * SEGMENT + tl.arange(0, SEGMENT)
    inside = column < width
    x = tl.load(logits + row * width + column, mask=inside, other=float("-inf")).to(tl.float64)
    temperature, least = heat(settings, rows, row)
    top = tl.load(highest + row).to(tl.float64)
    place = _bin_of(x, top, temperature, BINS)
    _add_to_bins(masses, row, place, to_mass(x, top, temperature, least), inside, BINS)
    if counts is not None:
        _add_to_bins(counts, row, place, tl.full((SEGMENT,), 1, tl.int64), inside, BINS)


@triton.jit
def _load(logits, row, start, width, BLOCK: tl.constexpr):
    """(BLOCK,) columns of a row: f64 logits, int64 keys, which of them there are."""
    column = start + tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(logits + row * width + column, mask=inside, other=float("-inf"))
    return x.to(tl.float64), _key_of(x, column, width), inside


@triton.jit
def _ends(logits, row, width, top, temperature, wanted, BINS: tl.constexpr, BLOCK: tl.constexpr):
    """How many ids are in a bin, their least key, and one more than their most."""
    number = tl.zeros((), tl.int32)
    low, high = tl.full((), MOST_KEY, tl.int64), tl.full((), LEAST_KEY, tl.int64)
    for start in range(0, width, BLOCK):
        x, key, inside = _load(logits, row, start, width, BLOCK)
        member = inside & (_bin_of(x, top, temperature, BINS) == wanted)
        number += tl.sum(member.to(tl.int32), 0)
        low = tl.minimum(low, tl.min(tl.where(member, key, MOST_KEY), 0))
        high = tl.maximum(high, tl.max(tl.where(member, key, LEAST_KEY), 0))
    return number, low, tl.maximum(low, high) + 1


@triton.jit
def _measure(logits, row, width, top, temperature, least, low, end, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """int64: masses, or with COUNT the number, of ids with keys in low..end-1; and their number."""
    total, number = tl.zeros((BLOCK,), tl.int64), tl.zeros((BLOCK,), tl.int32)
    for start in range(0, width, BLOCK):
        x, key, inside = _load(logits, row, start, width, BLOCK)
        member = inside & (key >= low) & (key < end)
        number += member.to(tl.int32)
        if COUNT:
            total += member.to(tl.int64)
        else:
            total += tl.where(member, to_mass(x, top, temperature, least), 0)
    return tl.sum(total, 0), tl.sum(number, 0)


@triton.jit
def _collect(
    logits, row, width, top, temperature, least, low, end, keys, held, ROOM: tl.constexpr, BLOCK: tl.constexpr
):
    """Write the keys in low..end-1 and their masses, ROOM of them at most."""
    tl.debug_barrier()  # what was collected before has been read
    number = tl.zeros((), tl.int32)
    for start in range(0, width, BLOCK):
        x, key, inside = _load(logits, row, start, width, BLOCK)
        member = inside & (key >= low) & (key < end)
        count = tl.sum(member.to(tl.int32), 0)
        if count > 0:
            place = number + tl.cumsum(member.to(tl.int32), 0) - 1
            fits = member & (place < ROOM)
            tl.store(keys + row * ROOM + place, key, mask=fits)
            tl.store(held + row * ROOM + place, to_mass(x, top, temperature, least), mask=fits)
            number += count
    tl.debug_barrier()


@triton.jit
def _sum_from(keys, held, row, number, bound, COUNT: tl.constexpr, ROOM: tl.constexpr, BLOCK: tl.constexpr):
    """int64: masses, or with COUNT the number, of what was collected from the key `bound` on."""
    total = tl.zeros((BLOCK,), tl.int64)
    for start in range(0, number, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < number
        reached = inside & (tl.load(keys + row * ROOM + place, mask=inside, other=LEAST_KEY) >= bound)
        if COUNT:
            total += reached.to(tl.int64)
        else:
            total += tl.load(held + row * ROOM + place, mask=reached, other=0)
    return tl.sum(total, 0)


@triton.jit
def _middle(low, end):
    """Between two int64 whose difference may not be one."""
    return (low >> 1) + (end >> 1) + (low & end & 1)


@triton.jit
def _find(logits, row, width, top, temperature, least, wanted, before, goal, keys, held,
          COUNT: tl.constexpr, ROOM: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """The largest key of bin `wanted` at which `before` and what is summed from it on reach `goal`, in the type of the goal.

    Returns it, and the masses of the ids collected from it on with those of the bin that lie before them. That the whole bin
    reaches the goal, and none of it does not, is the caller's.
    """
    number, low, end = _ends(logits, row, width, top, temperature, wanted, BINS, BLOCK)
    passed = tl.zeros((), tl.int64)
    while (number > ROOM) & (low + 1 < end):
        middle = _middle(low, end)
        value, count = _measure(logits, row, width, top, temperature, least, middle, end, COUNT, BLOCK)
        if (before + value).to(goal.dtype) >= goal:
            low = middle
            number = count
        else:
            if COUNT:
                mass, _ = _measure(logits, row, width, top, temperature, least, middle, end, False, BLOCK)
                passed += mass
            else:
                passed += value
            before += value
            end = middle
            number -= count
    number = tl.minimum(number, ROOM)
    _collect(logits, row, width, top, temperature, least, low, end, keys, held, ROOM, BLOCK)
    while low + 1 < end:
        middle = _middle(low, end)
        reached = before + _sum_from(keys, held, row, number, middle, COUNT, ROOM, BLOCK)
        if reached.to(goal.dtype) >= goal:
            low = middle
        else:
            end = middle
    return low, passed + _sum_from(keys, held, row, number, low, False, ROOM, BLOCK)


@triton.jit(do_not_specialize=["rows"])
def select_kernel(
    logits, highest, settings, masses, counts, keys, held, out, rows, width,
    ROOM: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (R,): top_k, then top_p, then the draw. keys and held (R, ROOM) i64 are written: those of a bin's ids."""
    wait_for_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    temperature, least = heat(settings, rows, row)
    top = tl.load(highest + row).to(tl.float64)
    place = tl.arange(0, BINS)
    mass = tl.load(masses + row * BINS + place)
    reached = tl.cumsum(mass, 0)
    total = tl.sum(mass, 0)
    if counts is not None:
        top_k = tl.load(settings + 2 * rows + row)
        if (top_k > 0) & (top_k < width):
            count = tl.load(counts + row * BINS + place)
            goal = top_k.to(tl.int64)
            short = tl.cumsum(count, 0) < goal
            wanted = tl.minimum(tl.sum(short.to(tl.int32), 0), BINS - 1)
            total = tl.sum(tl.where(place < wanted, mass, 0), 0)
            if tl.sum(tl.where(place == wanted, mass, 0), 0) > 0:
                before = tl.sum(tl.where(place < wanted, count, 0), 0)
                _, within = _find(
                    logits, row, width, top, temperature, least, wanted, before, goal, keys, held,
                    True, ROOM, BINS, BLOCK,
                )  # fmt: skip
                total += within
    limit = tl.load(settings + 3 * rows + row) * total.to(tl.float64)
    short = reached.to(tl.float64) < limit
    wanted = tl.minimum(tl.sum(short.to(tl.int32), 0), BINS - 1)
    before = tl.sum(tl.where(place < wanted, mass, 0), 0)
    _, within = _find(
        logits, row, width, top, temperature, least, wanted, before, limit, keys, held, False, ROOM, BINS, BLOCK
    )
    target = target_of(settings, rows, row, before + within)
    wanted = tl.minimum(tl.sum((reached <= target).to(tl.int32), 0), BINS - 1)
    before = tl.sum(tl.where(place < wanted, mass, 0), 0)
    key, _ = _find(
        logits, row, width, top, temperature, least, wanted, before, target + 1, keys, held, False, ROOM, BINS, BLOCK
    )
    column = width - 1 - (key & LOW_BITS)
    tl.store(out + row, tl.minimum(tl.maximum(column, 0), width - 1))

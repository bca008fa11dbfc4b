"""The largest numbers of each row, one after the other: first the groups that can hold them, then among those."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops import sort_keys
from octavo.ops.device import wait_for_previous

LOW_BITS = tl.constexpr(sort_keys.LOW_BITS)
NONE = tl.constexpr(-(2**63))
"""Below every key."""


@triton.jit
def _keys(x, column, width, inside):
    """int64 of f32: as `sort_keys` has it; NONE outside."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) << 32
    return tl.where(inside, ordered + (width - 1 - column), NONE)


@triton.jit
def maxima_kernel(values, maxima, width, groups, GROUP: tl.constexpr, GROUPS: tl.constexpr, PDL: tl.constexpr):
    """Grid (R x ceil(groups / GROUPS),): maxima[row, group] of GROUP columns each. values (R, width) f32."""
    wait_for_previous(PDL)
    programs = tl.cdiv(groups, GROUPS)
    row = (tl.program_id(0) // programs).to(tl.int64)
    group = tl.program_id(0) % programs * GROUPS + tl.arange(0, GROUPS)
    column = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    x = tl.load(values + row * width + column, mask=column < width, other=float("-inf"))
    x = tl.where(x == x, x, float("-inf"))  # what NaN gives differs between devices
    tl.store(maxima + row * groups + group, tl.max(x, 1), mask=group < groups)


@triton.jit(do_not_specialize=["count"])
def largest_kernel(
    values, maxima, out, width, groups, count,
    GROUP: tl.constexpr, GROUPS: tl.constexpr, COUNT: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (R,): out[row] are `count` columns. GROUPS and COUNT: powers of two >= groups and >= count."""
    wait_for_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, GROUPS)
    best_of = tl.load(maxima + row * groups + group, mask=group < groups, other=float("-inf"))
    keys = _keys(best_of, group, groups, group < groups)
    place = tl.arange(0, COUNT)
    chosen = tl.zeros((COUNT,), tl.int32)
    for index in range(count):
        best = tl.max(keys, 0)
        chosen = tl.where(place == index, (groups - 1 - (best & LOW_BITS)).to(tl.int32), chosen)
        keys = tl.where(keys == best, NONE, keys)
    column = tl.reshape(chosen[:, None] * GROUP + tl.arange(0, GROUP)[None, :], (COUNT * GROUP,))
    wanted = tl.reshape((place < count)[:, None] & (tl.arange(0, GROUP) >= 0)[None, :], (COUNT * GROUP,))
    inside = wanted & (column < width)
    x = tl.load(values + row * width + column, mask=inside, other=float("-inf"))
    held = _keys(x, column, width, inside)
    for index in range(count):
        best = tl.max(held, 0)
        tl.store(out + row * count + index, width - 1 - (best & LOW_BITS))
        held = tl.where(held == best, NONE, held)

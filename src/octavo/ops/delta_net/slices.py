"""States and keys in slices along the key: each has a sum of its own in products, so that as many warps can share them out.

A row of KEY numbers has SLICES of WIDTH, of which the last may be behind its end, where zeros are read.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import stay_behind

LEAST_WIDTH = 16
"""Numbers of the least product on tensor cores."""
MOST_SLICES = 4


def key_slices(key_dim: int) -> tuple[int, int]:
    """How many slices keys of so many numbers have, 1, 2 or 4, and their width, a power of two from LEAST_WIDTH on."""
    block = max(LEAST_WIDTH, triton.next_power_of_2(key_dim))
    slices = min(MOST_SLICES, block // LEAST_WIDTH)
    return slices, block // slices


@triton.jit
def load_whole(at, inside, IS_WHOLE: tl.constexpr):
    """What is at `at`, zeros where it is not `inside`; IS_WHOLE: it is everywhere."""
    if IS_WHOLE:
        return tl.load(at)
    else:
        return tl.load(at, mask=inside, other=0.0)


@triton.jit
def load_keys(at, KEY: tl.constexpr, WIDTH: tl.constexpr, SLICES: tl.constexpr):
    """Slices (rows, WIDTH) of rows that begin at `at` (rows,)."""
    loaded = ()
    for index in tl.static_range(SLICES):
        key = index * WIDTH + tl.arange(0, WIDTH)
        loaded += (load_whole(at[:, None] + key[None, :], (key < KEY)[None, :], (index + 1) * WIDTH <= KEY),)
    return loaded


@triton.jit
def load_turned_keys(at, there, KEY: tl.constexpr, WIDTH: tl.constexpr, SLICES: tl.constexpr):
    """Slices (WIDTH, rows) of rows that begin at `at` (1, rows), zeros of one that is not `there`; past the first cache."""
    loaded = ()
    for index in tl.static_range(SLICES):
        key = (index * WIDTH + tl.arange(0, WIDTH))[:, None]
        loaded += (tl.load(at + key, mask=there & (key < KEY), other=0.0, cache_modifier=".cg"),)
    return loaded


@triton.jit
def load_state(at, there, KEY: tl.constexpr, WIDTH: tl.constexpr, SLICES: tl.constexpr, CACHE: tl.constexpr):
    """Slices (columns, WIDTH) of columns that begin at `at` (columns,), zeros of one that is not `there`; CACHE modifies the loads."""
    loaded = ()
    for index in tl.static_range(SLICES):
        key = (index * WIDTH + tl.arange(0, WIDTH))[None, :]
        inside = there[:, None] & (key < KEY)
        loaded += (tl.load(at[:, None] + key, mask=inside, other=0.0, cache_modifier=CACHE),)
    return loaded


@triton.jit
def store_state(at, state, there, KEY: tl.constexpr, WIDTH: tl.constexpr, SLICES: tl.constexpr):
    """Store what `load_state` loads."""
    for index in tl.static_range(SLICES):
        key = (index * WIDTH + tl.arange(0, WIDTH))[None, :]
        tl.store(at[:, None] + key, state[index], mask=there[:, None] & (key < KEY))


@triton.jit
def turned(x, SLICES: tl.constexpr):
    """Each slice turned."""
    result = ()
    for index in tl.static_range(SLICES):
        result += (tl.trans(x[index]),)
    return result


@triton.jit
def held(x, PACK: tl.constexpr, SLICES: tl.constexpr, PDL: tl.constexpr):
    """`stay_behind` of each slice."""
    result = ()
    for index in tl.static_range(SLICES):
        result += (stay_behind(x[index], PACK, PDL),)
    return result

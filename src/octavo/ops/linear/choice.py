"""Tiles by the number of rows and the shape of the weight; the bits are the same with any."""

from __future__ import annotations

import dataclasses

from octavo.ops.experts.grouped_gemm.persistent_tile import PersistentTile
from octavo.ops.experts.grouped_gemm.tile import SHARED_BYTES
from octavo.ops.formats import LinearWeight
from octavo.ops.linear.early_tile import EarlyTile
from octavo.ops.linear.tile import DenseTile

ROUTER_COLUMNS = 1024
"""Of a weight so narrow that its products never fill the device: tiles stay small."""
FEW_COLUMNS = 4096
"""Of a weight that fewer programs read than a device has multiprocessors: each keeps more bytes in flight."""
MANY_COLUMNS = 32768
"""Of a head: square tiles fill the device from few rows on."""

EARLY_ROWS = 1024
"""Of a product whose weights are asked for early, at most."""
EARLY_HEIGHTS = (16, 32, 64)
"""Of its tiles."""
HALF_ROWS = 64
"""Of a product whose programs share a multiprocessor by two, at most; of more rows other tiles were as fast. With scales per block other tiles
compute for longer, and there is no such limit."""
EARLY_PROGRAMS = 132
"""That have a multiprocessor of an H200 to themselves, and all of its shared memory; up to twice as many have half of it. Where a device has fewer
multiprocessors, the last programs begin when the first have ended, and ask for nothing early."""

PERSISTENT_ITEMS = {"Fp8Channel": 250, "Fp8Static": 250, "Fp8Block": 60}
"""By the weights' type: of a product's items of 128 rows x 256 columns, so many that persistent tiles were faster on an H200 (docs/kernels_log.md). One scale for each
row and column lets other tiles be taller, so that they are slower only where each of 132 programs has two items."""


def is_for_persistent(kind: str, rows: int, columns: int) -> bool:
    """Whether a product of so many rows and columns, of weights whose type has the name `kind`, is large enough for persistent tiles.

    They begin behind a power of two: a start, which compiles what all powers of two need, then has both sides of every border.
    """
    before = 1 << ((rows - 1).bit_length() - 1) if rows > 1 else 0
    items = -(-before // PersistentTile.rows) * (columns // PersistentTile.columns(gated=False))
    return items >= PERSISTENT_ITEMS.get(kind, items + 1)


def choose_early(rows: int, w: LinearWeight) -> EarlyTile | None:
    """The tile for at least one row of weights `w` (N, K) that are asked for early: the lowest whose programs have a multiprocessor each, or else half a one.

    None: no such tile pays. Rows count as the next power of two, which a start compiles for. Measured on an H200 by `tools/tune_dense.py`: docs/kernels_log.md.
    """
    power = max(16, 1 << (rows - 1).bit_length())
    if power > EARLY_ROWS:
        return None
    shares = power <= HALF_ROWS or w.blockwise
    for most in (EARLY_PROGRAMS, 2 * EARLY_PROGRAMS) if shares else (EARLY_PROGRAMS,):
        for height in EARLY_HEIGHTS:
            if height <= power and _early_programs(power, height, w) <= most:
                return early_tile(power, height, w)
    return None


def early_tile(rows: int, height: int, w: LinearWeight) -> EarlyTile | None:
    """Of `height` rows, with as long a ring as shared memory has room for. None: there are more programs than run at once, or less room than a ring needs."""
    programs = _early_programs(rows, height, w)
    if programs > 2 * EARLY_PROGRAMS:
        return None
    room = SHARED_BYTES if programs <= EARLY_PROGRAMS else SHARED_BYTES // 2 - 1024
    for together in (4, 2):
        tile = EarlyTile(height, 1, together)
        groups = tile.steps(w) // tile.group(w)
        ring = min(groups, (room - tile.scale_bytes(w)) // tile.group_bytes(w))
        # with one place of several groups, copies and products would take turns
        if ring >= min(2, groups) and groups:
            return dataclasses.replace(tile, ring=ring)
    return None


def _early_programs(rows: int, height: int, w: LinearWeight) -> int:
    return -(-len(w.data) // EarlyTile.columns) * -(-rows // height)


def choose_tile(rows: int, columns: int, steps: int, element_size: int) -> DenseTile:
    """The tile for (rows, K) x (columns, K)^T with K of `steps` whole `STEP`s, of numbers of so many bytes.

    Small tiles with many bytes in flight while the weights are what is waited for, square ones from then on. Measured on an
    H200 at the shapes of Qwen3-30B-A3B by `tools/tune_dense.py`: docs/kernels_log.md.
    """
    if rows <= 16:
        few = columns < FEW_COLUMNS
        return DenseTile(16, 64, 4, 5 if few else 4, step_factor=_factor(4 if few or element_size == 1 else 2, steps))
    if columns < FEW_COLUMNS:
        return _narrow_tile(rows, columns, steps, element_size)
    if rows <= 32:
        return DenseTile(32, 64, 4, 4, step_factor=_factor(2, steps))
    if columns < MANY_COLUMNS:
        return _wide_tile(rows, steps)
    if rows <= 64:
        return DenseTile(64, 64, 4, 5)
    return DenseTile(128, 128, 4, 6 if rows <= 128 else 3)


def _narrow_tile(rows: int, columns: int, steps: int, element_size: int) -> DenseTile:
    """Of more than 16 rows, for a weight of few columns: short tiles, so that more programs read."""
    if columns <= ROUTER_COLUMNS:
        return DenseTile(16, 64, 4, 4, step_factor=_factor(4, steps)) if rows <= 512 else DenseTile(64, 128, 4, 6)
    if rows <= 128:
        return DenseTile(16 if rows <= 32 else 32, 64, 4, 4, step_factor=_factor(4, steps))
    if rows <= 256:
        return DenseTile(64, 64, 4, 6 if element_size == 1 else 4, step_factor=_factor(2, steps))
    return DenseTile(128, 64, 4, 4, step_factor=_factor(2, steps)) if rows <= 512 else DenseTile(128, 128, 4, 3)


def _wide_tile(rows: int, steps: int) -> DenseTile:
    """Of more than 32 rows, for a weight of many columns that is no head."""
    if rows <= 64:
        return DenseTile(64, 64, 4, 5, step_factor=_factor(2, steps))
    if rows <= 128:
        return DenseTile(128, 64, 4, 4, step_factor=_factor(2, steps))
    if rows <= 512:
        return DenseTile(128, 128, 4, 5) if rows <= 256 else DenseTile(128, 64, 4, 3)
    return DenseTile(128, 128, 4, 3)


def choose_block_tile(rows: int) -> DenseTile:
    """The tile for weights with scales per block: products of one K step and their sums are separate registers."""
    if rows <= 32:
        return DenseTile(16 if rows <= 16 else 32, 64, 4, 6)
    return DenseTile(64, 64, 4, 5) if rows <= 64 else DenseTile(128, 64, 4, 3)


def _factor(most: int, steps: int) -> int:
    """`most`, or less where K has not so many steps."""
    return next(factor for factor in (most, most // 2, 1) if factor <= max(steps, 1))

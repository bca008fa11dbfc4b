"""Device functions that the persistent kernels share, in Gluon: which items, each a tile of rows x a block of columns, a program computes, and
which rows those read and write.

Rows are sorted by experts, whose tiles a list has; or there is no list (None), and x has the rows of one matrix in their own order.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from octavo.ops.experts.grouped_gemm import persistent_tile

STEP = gl.constexpr(persistent_tile.STEP)
"""Columns of K that a stage holds."""
STAGES = gl.constexpr(4)
"""As many as shared memory has room for."""
TILE_ROWS = gl.constexpr(persistent_tile.PersistentTile.rows)
BAND = gl.constexpr(4)
"""Row tiles whose items run next to each other."""
TURN_SHIFT = gl.constexpr(37)
"""Coprime to the multiprocessors of Hopper GPUs, 132, 114 and 78, and no small number."""


@gluon.jit
def load_num_turns(num_tiles, most_tiles, COLUMN_BLOCKS: gl.constexpr):
    """The tiles in use, held within [0, most_tiles], and in how many turns all programs have gone through their items."""
    if num_tiles is None:
        used = most_tiles
    else:
        used = gl.minimum(gl.maximum(gl.load(num_tiles, cache_modifier=".cg"), 0), most_tiles)
    items = (used + BAND - 1) // BAND * (BAND * COLUMN_BLOCKS)
    return used, (items + gl.num_programs(0) - 1) // gl.num_programs(0)


@gluon.jit
def load_item(turn, tiles, used, experts, assignments, most_tiles, COLUMN_BLOCKS: gl.constexpr):
    """This program's item of a turn: (expert, first row, rows, block of columns); no rows where there is none, or its entry is not sound.

    Producer and consumers read the same. Programs of one turn work on consecutive items, bands of BAND tiles x all columns, mostly of one expert,
    whose weights stay in the second cache. A program's place moves on from turn to turn: tiles of few rows may come at regular distances.
    """
    programs = gl.num_programs(0)
    item = turn * programs + (gl.program_id(0) + turn * TURN_SHIFT) % programs
    band: gl.constexpr = BAND * COLUMN_BLOCKS
    tile = item // band * BAND + item % BAND
    block = item % band // BAND
    if tiles is None:
        expert = gl.to_tensor(0)
        first_row = tile * TILE_ROWS
        rows = assignments - first_row
    else:
        entry = tiles + gl.minimum(tile, most_tiles - 1).to(gl.int64) * 3
        expert = gl.load(entry, cache_modifier=".cg")
        first_row = gl.load(entry + 1, cache_modifier=".cg")
        rows = gl.load(entry + 2, cache_modifier=".cg")
    sound = (
        (tile < used) & (expert >= 0) & (expert < experts) & (first_row >= 0) & (first_row < assignments) & (rows > 0)
    )
    return expert, first_row, gl.where(sound, gl.minimum(rows, TILE_ROWS), 0), block


@gluon.jit
def load_assignments(order, row, place, rows, assignments):
    """The assignments of rows `row`, at `place` in a tile of `rows`; -1 past the tile."""
    inside = (place < rows) & (row < assignments)
    return gl.where(inside, row, -1) if order is None else gl.load(order + row, mask=inside, other=-1)


@gluon.jit
def target_rows(assignment, row, assignments, x_rows):
    """The row of y that each sorted row of a plain product becomes, -1 for none."""
    return gl.where((assignment >= 0) & (assignment < assignments) & (row < x_rows), assignment, -1)

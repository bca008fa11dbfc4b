"""What a program of `persistent_attend_kernel` reads of the plan, in Gluon: its items, their lines of work, and blocks of their contexts."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from octavo.ops.attention import plan
from octavo.ops.attention.persistent_softmax import KV_TILE, PIECE_ROWS

LINE = gl.constexpr(plan.WORK)
"""Numbers of a line of work."""
LOOKED_AT = gl.constexpr(256)
"""Blocks that a warp looks at together."""
EVERY_WARP = gl.constexpr(gl.SliceLayout(0, gl.BlockedLayout([1, 8], [1, 32], [4, 1], [1, 0])))


@gluon.jit
def find_item(turn):
    """This program's item of a turn, which may be behind the last: turns go to and fro, so that the longest, which come first, are not one program's."""
    programs = gl.num_programs(0)
    place = gl.where(turn % 2 == 0, gl.program_id(0), programs - 1 - gl.program_id(0))
    return turn * programs + place


@gluon.jit
def load_line(
    work, item, items, rows, tables_rows, KV_HEADS: gl.constexpr, SHARED: gl.constexpr, SPLIT: gl.constexpr
):  # fmt: skip
    """The line of an item, its first key and number of tiles; no tiles where there is none, or it is not sound."""
    entry = work + gl.maximum(gl.minimum(item, items - 1), 0) // KV_HEADS * LINE
    chunk = gl.load(entry, cache_modifier=".cg")
    first_row = gl.load(entry + 1, cache_modifier=".cg")
    tokens = gl.load(entry + 2, cache_modifier=".cg")
    first_position = gl.load(entry + 3, cache_modifier=".cg")
    first_split = gl.load(entry + 4, cache_modifier=".cg")
    end_split = gl.load(entry + 5, cache_modifier=".cg")
    split_result = gl.load(entry + 6, cache_modifier=".cg")
    context = gl.load(entry + 7, cache_modifier=".cg")
    sound = (item < items) & (chunk >= 0) & (chunk < tables_rows) & (first_row >= 0) & (first_row < rows)
    sound = sound & (first_position >= 0) & (first_split >= 0)
    chunk = gl.where(sound, chunk, 0)
    tokens = gl.minimum(tokens, 2 * PIECE_ROWS // SHARED)
    first_key = gl.where(sound, first_split * SPLIT, 0)
    end = gl.minimum(end_split * SPLIT, first_position + tokens)
    tiles = gl.where(sound, gl.maximum((end - first_key + KV_TILE - 1) // KV_TILE, 0), 0)
    return chunk, first_row, tokens, first_position, split_result, context, first_key, tiles


@gluon.jit
def load_block(table, key, columns, BLOCK_SIZE: gl.constexpr):
    """The block that holds `key`, -1 for none."""
    place = key // BLOCK_SIZE
    return gl.load(table + place, mask=(place >= 0) & (place < columns), other=-1, cache_modifier=".cg")


@gluon.jit
def look_for_missing(table, first_key, end, columns, blocks, BLOCK_SIZE: gl.constexpr):
    """Not 0 where a block of keys first_key to end - 1 is not there. Every warp looks at all, so that none waits for another."""
    place = gl.arange(0, LOOKED_AT, EVERY_WARP)
    missing = gl.zeros([LOOKED_AT], gl.int32, EVERY_WARP)
    end_place = (end + BLOCK_SIZE - 1) // BLOCK_SIZE
    for first in range(first_key // BLOCK_SIZE, end_place, LOOKED_AT):
        needed = first + place < end_place
        block = gl.load(table + first + place, mask=needed & (first + place < columns), other=-1, cache_modifier=".cg")
        missing |= (needed & ((block < 0) | (block >= blocks))).to(gl.int32)
    return gl.max(missing, 0)

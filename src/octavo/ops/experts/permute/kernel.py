"""A stable counting sort of assignments by expert; no atomic decides an order.

    count       per block of assignments: how many go to each expert
    scan        per expert: exclusive sums over the blocks, and the total
    place       per block: write each assignment at offset + earlier blocks + rank in the block; and the list of tiles

An assignment's rank is the number of those before it with the same expert, counted by comparing. Few need one launch:

    place_few   per a few assignments: write each behind all that are of experts before, or earlier ones of its own; other programs write the
                list of tiles

All wait before they let the next kernel start, which may be a rounding of the rows that does not wait.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import load_rows_in_use, wait_for_previous


@triton.jit
def _keys(ids, assignment, live_assignments, experts):
    """Expert of each assignment; `experts` for absent ones and those past the rows in use."""
    expert = tl.load(ids + assignment, mask=assignment < live_assignments, other=-1)
    return tl.where((expert >= 0) & (expert < experts), expert, experts)


@triton.jit
def _ranks(ids, key, assignment, first, live_assignments, experts, CHUNK: tl.constexpr):
    """How many assignments from `first` on, before each of `assignment`, have its key."""
    rank = tl.zeros_like(assignment)
    for start in range(first, tl.max(assignment, 0) + 1, CHUNK):
        other = start + tl.arange(0, CHUNK)
        same = key[:, None] == _keys(ids, other, live_assignments, experts)[None, :]
        rank += tl.sum((same & (other[None, :] < assignment[:, None])).to(tl.int32), 1)
    return rank


@triton.jit(do_not_specialize=["tokens"])
def count_kernel(
    ids,
    rows_in_use,
    block_counts,
    tokens,
    top_k,
    experts,
    BLOCK: tl.constexpr,
    BINS: tl.constexpr,
    PDL: tl.constexpr,
):
    """Grid (blocks,): block_counts[block, e] = assignments of expert e. BINS: power of two > E."""
    wait_for_previous(PDL)
    assignment = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = _keys(ids, assignment, load_rows_in_use(rows_in_use, tokens) * top_k, experts)
    bins = tl.arange(0, BINS)
    tl.store(block_counts + tl.program_id(0).to(tl.int64) * BINS + bins, tl.histogram(key, BINS))


@triton.jit(do_not_specialize=["blocks"])
def scan_kernel(
    block_counts,
    totals,
    blocks,
    BINS: tl.constexpr,
    WIDTH: tl.constexpr,
    HEIGHT: tl.constexpr,
    PDL: tl.constexpr,
):
    """Grid (BINS / WIDTH,): block_counts[:, e] becomes its exclusive sum, totals[e] the sum; HEIGHT blocks at a time."""
    wait_for_previous(PDL)
    column = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    carry = tl.zeros((WIDTH,), tl.int32)
    for start in range(0, blocks, HEIGHT):
        block = start + tl.arange(0, HEIGHT)
        where = block_counts + block[:, None].to(tl.int64) * BINS + column[None, :]
        inside = (block < blocks)[:, None]
        counts = tl.load(where, mask=inside, other=0)
        tl.store(where, carry[None, :] + tl.cumsum(counts, 0) - counts, mask=inside)
        carry += tl.sum(counts, 0)
    tl.store(totals + column, carry)


@triton.jit
def _list_tiles(
    counts, offset, sorted_rows, tiles, num_tiles, max_tiles, programs, ROWS: tl.constexpr, BINS: tl.constexpr
):
    """Of the first `programs`: write the tiles (expert, first row, rows), those of all experts that have as many before them in their
    expert at once; and how many tiles and sorted rows there are."""
    expert = tl.arange(0, BINS)
    expert_tiles = (counts + ROWS - 1) // ROWS
    begin = tl.cumsum(expert_tiles, 0) - expert_tiles
    if tl.program_id(0) == 0:
        tl.store(sorted_rows, tl.sum(counts, 0))
        tl.store(num_tiles, tl.minimum(tl.sum(expert_tiles, 0), max_tiles))
    for before in range(tl.program_id(0), tl.max(expert_tiles, 0), programs):
        tile = begin + before
        inside = (before < expert_tiles) & (tile < max_tiles)
        entry = tiles + tile.to(tl.int64) * 3
        done = before * ROWS
        tl.store(entry, expert, mask=inside)
        tl.store(entry + 1, offset + done, mask=inside)
        tl.store(entry + 2, tl.minimum(counts - done, ROWS), mask=inside)


@triton.jit(do_not_specialize=["tokens", "max_tiles"])
def place_kernel(
    ids, rows_in_use, block_counts, totals, order, sorted_rows, tiles, num_tiles,
    tokens, top_k, experts, max_tiles,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr, BINS: tl.constexpr, ROWS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (blocks,): order, sorted_rows, tiles and num_tiles, from the scanned counts."""
    wait_for_previous(PDL)
    live_assignments = load_rows_in_use(rows_in_use, tokens) * top_k
    first = tl.program_id(0) * BLOCK
    assignment = first + tl.arange(0, BLOCK)
    key = _keys(ids, assignment, live_assignments, experts)
    bins = tl.arange(0, BINS)
    counts = tl.load(totals + bins)
    earlier = tl.load(block_counts + tl.program_id(0).to(tl.int64) * BINS + bins)
    counts = tl.where(bins < experts, counts, 0)
    offset = tl.cumsum(counts, 0) - counts
    row = tl.gather(offset + earlier, key, 0) + _ranks(ids, key, assignment, first, live_assignments, experts, CHUNK)
    tl.store(order + row, assignment, mask=(key < experts) & (row >= 0) & (row < tokens * top_k))
    _list_tiles(counts, offset, sorted_rows, tiles, num_tiles, max_tiles, tl.num_programs(0), ROWS, BINS)


@triton.jit
def _live_keys(ids, assignment, given, live_assignments, experts):
    """As `_keys`; all `given` ids are read, so that they do not wait for how many are in use."""
    return tl.where(assignment < live_assignments, _keys(ids, assignment, given, experts), experts)


@triton.jit
def _place_few(ids, order, first, given, live_assignments, experts, ALL: tl.constexpr, WIDTH: tl.constexpr):
    """Place WIDTH assignments from `first` on, among all that are live."""
    assignment, other = first + tl.arange(0, WIDTH), tl.arange(0, ALL)
    key = _live_keys(ids, assignment, given, live_assignments, experts)
    # one number orders assignments by expert, and those of an expert
    others = _live_keys(ids, other, given, live_assignments, experts) * ALL + other
    before = others[None, :] < (key * ALL + assignment)[:, None]
    row = tl.sum(before.to(tl.int32), 1)
    tl.store(order + row, assignment, mask=(key < experts) & (row < given))


@triton.jit(do_not_specialize=["tokens", "max_tiles"])
def place_few_kernel(
    ids, rows_in_use, order, sorted_rows, tiles, num_tiles,
    tokens, top_k, experts, max_tiles,
    ALL: tl.constexpr, WIDTH: tl.constexpr, LISTERS: tl.constexpr, BINS: tl.constexpr, ROWS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (LISTERS + ceil(T x K / WIDTH),): the same of at most ALL assignments, from nothing. The first programs write the list of tiles, each other
    one places WIDTH assignments. Assignments are ordered by numbers below BINS x ALL, which must be one of int32."""
    wait_for_previous(PDL)
    given, live_assignments = tokens * top_k, load_rows_in_use(rows_in_use, tokens) * top_k
    if tl.program_id(0) < LISTERS:
        counts = tl.histogram(_live_keys(ids, tl.arange(0, ALL), given, live_assignments, experts), BINS)
        counts = tl.where(tl.arange(0, BINS) < experts, counts, 0)
        offset = tl.cumsum(counts, 0) - counts
        _list_tiles(counts, offset, sorted_rows, tiles, num_tiles, max_tiles, LISTERS, ROWS, BINS)
    else:
        first = (tl.program_id(0) - LISTERS) * WIDTH
        _place_few(ids, order, first, given, live_assignments, experts, ALL, WIDTH)

"""Attention of many rows on Hopper, in Gluon: the bits of `attend_kernel`, with copies, products and softmax beside each other.

A program goes through items, each a line of work x a KV head: up to 128 rows (tokens x the query heads that share the KV head) against the
tiles of 64 keys that its last row sees. Consumer p has rows 64p to 64p + 63; what it does not see of the tiles is masked, and
leaves its numbers as they are (see below). The producer copies queries, keys and values in bulk.

Barriers. Units: unit u of an item with n tiles, 0 <= u <= n, is the keys of tile u (none in the last) and the values of tile u - 1 (none in the
first), what a consumer multiplies at a time. Counted on through all items of a program, a unit uses stage u % STAGES as its use u // STAGES.
    full      1 arrival (the producer's expect) and all bytes of the unit's bulk copies complete a phase
    empty     an arrival of each consumer
    q_full, q_empty   the same of an item's queries, in a ring of two
    The producer waits before use n of a stage for the n-th completion of `empty`: parity (n & 1) ^ 1, which a fresh barrier passes. A consumer
    waits for completion n + 1 of `full`: parity n & 1. Nobody is a phase behind or ahead: `full` of the next use comes behind the producer's wait
    for `empty` of this one, which each consumer gives behind its own wait for `full` of this one.
No deadlock, for STAGES >= 2. A consumer frees unit u when its products are done, before it waits for unit u + 1. Suppose nobody goes on: the
producer waits for unit u - STAGES to be freed, with all before u issued; the consumer that has not freed it waits for at most that unit, which
is issued. Or it waits for the queries of the item before last to be freed: a consumer frees them at the end of that item, for which it waits
only for units of that item, which are issued. All parts compute items and tiles from the same memory by the same functions, so they agree.

Masked tiles. A row that has seen a key has a finite maximum, so a tile whose scores are minus infinity has weights exp2(-inf) = 0 and shrinks sums by
exp2(0) = 1. Where such a tile starts a split, the merge comes before, the empty split has maximum minus infinity and sums 0, and the last merge
multiplies by exp2(0) = 1 and adds 0 * exp2(-inf) = 0. Where a row sees no key of a split, reference is 0 throughout, as in `attend_kernel`.

Registers. Operands in registers (queries, weights) and sums are not written between the issue of a product and the wait for it; ptxas would
serialise all products otherwise.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from octavo.ops.device import load_rows_in_use, wait_for_previous
from octavo.ops.persistent_device import next_stage, sync_threads

KV_TILE = gl.constexpr(64)
WIDTH = gl.constexpr(128)
"""Numbers of a head."""
PIECE_ROWS = gl.constexpr(64)
"""Rows of a consumer."""
STAGES = gl.constexpr(3)
"""As many as shared memory has room for, beside two items' queries and sums of two consumers."""
ONES = gl.constexpr(8)
"""Columns of ones that sum weights, the fewest of a product. One is read."""
LINE = gl.constexpr(8)
"""Numbers of a line of work."""
LOOKED_AT = gl.constexpr(256)
"""Blocks that a warp looks at together."""
SCORES = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16]))
VALUES = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16]))
TOTALS = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 8, 16]))
WHOLE_ROWS = gl.constexpr(gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0]))
"""For memory: each row is read and written as a whole."""
EVERY_WARP = gl.constexpr(gl.SliceLayout(0, gl.BlockedLayout([1, 8], [1, 32], [4, 1], [1, 0])))
ROW = gl.constexpr(gl.SliceLayout(1, SCORES))
VALUES_ROW = gl.constexpr(gl.SliceLayout(1, VALUES))


@gluon.jit
def _item(turn, items):
    """This program's item of a turn, `items` or more for none: turns go to and fro, so that the longest, which come first, are not one program's."""
    programs = gl.num_programs(0)
    place = gl.where(turn % 2 == 0, gl.program_id(0), programs - 1 - gl.program_id(0))
    return turn * programs + place


@gluon.jit
def _load_line(
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
def _load_block(table, key, columns, BLOCK_SIZE: gl.constexpr):
    """The block that holds `key`, -1 for none."""
    place = key // BLOCK_SIZE
    return gl.load(table + place, mask=(place >= 0) & (place < columns), other=-1, cache_modifier=".cg")


@gluon.jit
def _producer(
    q_tiles, kv_tiles, q_buffers, k_buffers, v_buffers, q_full, q_empty, full, empty, tables, work, items, rows, tables_rows, columns, blocks,
    KV_HEADS: gl.constexpr, SHARED: gl.constexpr, BLOCK_SIZE: gl.constexpr, SPLIT: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    """Copies all queries and units. Block ids are older than the kernel before, and asked for a tile ahead."""
    piece_tokens: gl.constexpr = PIECE_ROWS // SHARED
    q_box: gl.constexpr = [piece_tokens, SHARED, WIDTH]
    stage = gl.to_tensor(0)
    phase = gl.to_tensor(1)
    use = gl.to_tensor(0)
    for turn in range(gl.cdiv(items, gl.num_programs(0))):
        item = _item(turn, items)
        chunk, first_row, _, _, _, _, first_key, tiles = _load_line(
            work, item, items, rows, tables_rows, KV_HEADS, SHARED, SPLIT
        )
        if tiles > 0:
            group = item % KV_HEADS
            table = tables + chunk.to(gl.int64) * columns
            next_block = _load_block(table, first_key, columns, BLOCK_SIZE)
            wait_for_previous(PDL)
            mbarrier.wait(q_empty.index(use % 2), use // 2 & 1 ^ 1)
            mbarrier.expect(q_full.index(use % 2), 2 * q_tiles.block_type.nbytes)
            for piece in gl.static_range(2):
                q_buffer = q_buffers.index(use % 2 * 2 + piece)._reinterpret(gl.bfloat16, q_box, q_tiles.layout)
                start = [first_row + piece * piece_tokens, group * SHARED, 0]
                tma.async_copy_global_to_shared(q_tiles, start, q_full.index(use % 2), q_buffer)
            use += 1
            v_slot = gl.to_tensor(0)
            for unit in range(tiles + 1):
                key = first_key + unit * KV_TILE
                block = next_block
                next_block = _load_block(table, key + KV_TILE, columns, BLOCK_SIZE)
                # past the cache's end a bulk copy reads zeros
                slot = gl.where(
                    (block >= 0) & (block < blocks), block * BLOCK_SIZE + key % BLOCK_SIZE, 2 * blocks * BLOCK_SIZE
                )
                has_keys = unit < tiles
                has_values = unit > 0
                bar = full.index(stage)
                mbarrier.wait(empty.index(stage), phase)
                mbarrier.expect(bar, kv_tiles.block_type.nbytes, pred=has_keys != has_values)
                mbarrier.expect(bar, 2 * kv_tiles.block_type.nbytes, pred=has_keys & has_values)
                tma.async_copy_global_to_shared(
                    kv_tiles, [slot, group * WIDTH], bar, k_buffers.index(stage), pred=has_keys
                )
                tma.async_copy_global_to_shared(
                    kv_tiles, [v_slot, group * WIDTH], bar, v_buffers.index(stage), pred=has_values
                )
                v_slot = slot + blocks * BLOCK_SIZE
                stage, phase = next_stage(stage, phase, STAGES)
    wait_for_previous(PDL)  # a program without work must not end before it


@gluon.jit
def _reference(row_max):
    """As `attend_kernel`'s."""
    return gl.where(row_max == float("-inf"), 0.0, row_max)


@gluon.jit
def _of_values(x):
    """x (R,) of scores' rows against sums of values: (R, 1)."""
    return gl.convert_layout(x, VALUES_ROW, assert_trivial=True)[:, None]


@gluon.jit
def _of_totals(x):
    """x (R,) of scores' rows against sums of weights: (R, 1)."""
    return gl.convert_layout(x, gl.SliceLayout(1, TOTALS), assert_trivial=True)[:, None]


@gluon.jit
def _merge(row_max, total, acc, split_row_max, totals, split_acc, scale):
    """As `attend_kernel`'s, of a split whose sums of weights are all columns of `totals`."""
    one = (gl.arange(0, ONES, gl.SliceLayout(0, TOTALS)) == 0)[None, :]
    split_total = gl.convert_layout(gl.sum(gl.where(one, totals, 0.0), 1), ROW, assert_trivial=True)
    highest = gl.maximum(row_max, split_row_max)
    reference = _reference(highest)
    before = gl.exp2((row_max - reference) * scale)
    now = gl.exp2((split_row_max - reference) * scale)
    total = gl.fma(total, before, split_total * now)
    _, kept = gl.broadcast(acc, _of_values(before))
    return highest, total, gl.fma(acc, kept, split_acc * _of_values(now))


@gluon.jit
def _masked(scores, first_key, position, seen_by_all):
    """Scores of a tile, minus infinity for keys behind a row's position."""
    if first_key + KV_TILE > seen_by_all:
        key = first_key + gl.arange(0, KV_TILE, gl.SliceLayout(0, SCORES))
        scores = gl.where(key[None, :] <= position[:, None], scores, float("-inf"))
    return scores


@gluon.jit
def _halves_max(x):
    """x (R, N): the larger of columns n and n + N / 2, which one thread has: (R, N / 2)."""
    first, second = gl.split(gl.permute(gl.reshape(x, [x.shape[0], 2, x.shape[1] // 2]), (0, 2, 1)))
    return gl.maximum(first, second)


@gluon.jit
def _peak(scores):
    """The largest of each row, by a tree: a reduction is one chain of as many comparisons as a thread has numbers of a row."""
    x = _halves_max(_halves_max(_halves_max(scores)))
    return gl.convert_layout(gl.max(x, 1), ROW, assert_trivial=True)


@gluon.jit
def _highest(scores, row_max, scale):
    """A split's new maximum, what it is taken relative to, and what sums relative to the old one shrink by."""
    highest = gl.maximum(row_max, _peak(scores))
    reference = _reference(highest)
    return highest, reference, gl.exp2((row_max - reference) * scale)


@gluon.jit
def _weights(scores, reference, scale):
    """Weights relative to `reference`, as what values are multiplied with, in the registers where scores are."""
    _, level = gl.broadcast(scores, (-reference * scale)[:, None])
    weights = gl.exp2(gl.fma(scores, gl.full(scores.shape, scale, gl.float32, SCORES), level))
    return gl.convert_layout(weights.to(gl.bfloat16), gl.DotOperandLayout(0, VALUES, 2), assert_trivial=True)


@gluon.jit
def _multiply_keys(q, k_buffer):
    """q k^T, in flight."""
    zeros = gl.zeros([PIECE_ROWS, KV_TILE], gl.float32, SCORES)
    return warpgroup_mma(q, k_buffer.permute((1, 0)), zeros, use_acc=False, is_async=True)


@gluon.jit
def _add_weights(left, ones, totals):
    """totals + the sums of weights, in flight."""
    left = gl.convert_layout(left, gl.DotOperandLayout(0, TOTALS, 2), assert_trivial=True)
    return warpgroup_mma(left, ones, totals, is_async=True)


@gluon.jit
def _missing(table, first_key, end, columns, blocks, BLOCK_SIZE: gl.constexpr):
    """Not 0 where a block of keys first_key to end - 1 is not there. Every warp looks at all, so that none waits for another."""
    place = gl.arange(0, LOOKED_AT, EVERY_WARP)
    missing = gl.zeros([LOOKED_AT], gl.int32, EVERY_WARP)
    end_place = (end + BLOCK_SIZE - 1) // BLOCK_SIZE
    for first in range(first_key // BLOCK_SIZE, end_place, LOOKED_AT):
        needed = first + place < end_place
        block = gl.load(table + first + place, mask=needed & (first + place < columns), other=-1, cache_modifier=".cg")
        missing |= (needed & ((block < 0) | (block >= blocks))).to(gl.int32)
    return gl.max(missing, 0)


@gluon.jit
def _store_share(acc, total, q_buffer, out, first_row, tokens, rows, group, heads, SHARED: gl.constexpr):
    """Writes acc / total to `out`, by way of the memory where the queries were."""
    inverse = gl.div_rn(gl.full([PIECE_ROWS], 1.0, gl.float32, ROW), total)
    sync_threads()
    q_buffer.store((acc * _of_values(inverse)).to(gl.bfloat16))
    sync_threads()
    row = gl.arange(0, PIECE_ROWS, gl.SliceLayout(1, WHOLE_ROWS))
    token = first_row + row // SHARED
    live = (row // SHARED < tokens) & (token < rows)
    head = group * SHARED + row % SHARED
    at = ((token.to(gl.int64) * heads + head) * WIDTH)[:, None]
    at += gl.arange(0, WIDTH, gl.SliceLayout(0, WHOLE_ROWS))[None, :]
    gl.store(out + at, q_buffer.load(WHOLE_ROWS), mask=live[:, None])


@gluon.jit
def _store_split(
    row_max, total, acc, split_stats, split_accs, first_result, first_row, tokens, rows, num_split_results, group, heads, SHARED: gl.constexpr
):  # fmt: skip
    """Writes what the splits of a context are merged from."""
    row = gl.arange(0, PIECE_ROWS, ROW)
    kept = first_result + row // SHARED
    live = (row // SHARED < tokens) & (first_row + row // SHARED < rows) & (kept < num_split_results)
    stat = split_stats + (kept * heads + group * SHARED + row % SHARED) * 2
    gl.store(stat, row_max, mask=live)
    gl.store(stat + 1, total, mask=live)
    row = gl.arange(0, PIECE_ROWS, VALUES_ROW)
    kept = first_result + row // SHARED
    live = (row // SHARED < tokens) & (first_row + row // SHARED < rows) & (kept < num_split_results)
    spot = ((kept * heads + group * SHARED + row % SHARED) * WIDTH)[:, None]
    spot += gl.arange(0, WIDTH, gl.SliceLayout(0, VALUES))[None, :]
    gl.store(split_accs + spot, acc, mask=live[:, None])


@gluon.jit
def _attend(
    q_buffers, k_buffers, v_buffers, acc_buffer, ones, q_full, q_empty, full, empty, tables, work, out, split_stats, split_accs,
    item, next_item, use, stage, phase, chunk, first_row, tokens, first_position, split_result, context, first_key, tiles,
    items, rows, tables_rows, columns, blocks, num_split_results, scale,
    KV_HEADS: gl.constexpr, SHARED: gl.constexpr, BLOCK_SIZE: gl.constexpr, SPLIT: gl.constexpr, PIECE: gl.constexpr,
):  # fmt: skip
    """A consumer's rows of an item. `stage` and `phase` are of its first unit; returns those of the next item, and that item's line."""
    group = item % KV_HEADS
    heads = KV_HEADS * SHARED
    table = tables + chunk.to(gl.int64) * columns
    # this piece's own line; no tokens where the line has none left for it
    piece_tokens: gl.constexpr = PIECE_ROWS // SHARED
    first_row += PIECE * piece_tokens
    first_position += PIECE * piece_tokens
    tokens = gl.minimum(tokens - PIECE * piece_tokens, piece_tokens)
    seen_by_all = first_position + 1
    position = first_position + gl.arange(0, PIECE_ROWS, ROW) // SHARED

    nothing = gl.full([PIECE_ROWS], float("-inf"), gl.float32, ROW)
    row_max = nothing
    total = gl.zeros([PIECE_ROWS], gl.float32, ROW)
    acc_buffer.store(gl.zeros([PIECE_ROWS, WIDTH], gl.float32, VALUES))
    totals = gl.zeros([PIECE_ROWS, ONES], gl.float32, TOTALS)
    split_acc = gl.zeros([PIECE_ROWS, WIDTH], gl.float32, VALUES)

    # unit 0, the first tile's keys: nothing to shrink, no merge
    q_buffer = q_buffers.index(use % 2 * 2 + PIECE)
    mbarrier.wait(q_full.index(use % 2), use // 2 & 1)
    q = q_buffer.load(gl.DotOperandLayout(0, SCORES, 2))
    mbarrier.wait(full.index(stage), phase)
    coming = _multiply_keys(q, k_buffers.index(stage))
    own_end = gl.minimum(first_key + tiles * KV_TILE, first_position + tokens)
    missing = _missing(table, first_key, own_end, columns, blocks, BLOCK_SIZE)
    scores = warpgroup_mma_wait(0, deps=[coming])
    mbarrier.arrive(empty.index(stage))
    scores = _masked(scores, first_key, position, seen_by_all)
    split_row_max, reference, shrink = _highest(scores, nothing, scale)
    left = _weights(scores, reference, scale)
    stage, phase = next_stage(stage, phase, STAGES)
    mbarrier.wait(full.index(stage), phase)
    for tile in range(1, tiles):
        # unit `tile` is there
        start = first_key + tile * KV_TILE
        coming = _multiply_keys(q, k_buffers.index(stage))
        summing = _add_weights(left, ones, totals)
        adding = warpgroup_mma(left, v_buffers.index(stage), split_acc, is_async=True)
        # the scores are there, the products with weights go on
        scores = warpgroup_mma_wait(2, deps=[coming])
        scores = _masked(scores, start, position, seen_by_all)
        new_split = start % SPLIT == 0
        # minus infinity where a split begins, by arithmetic: the branch below comes later
        before = gl.where(new_split, float("-inf"), split_row_max)
        highest, reference, shrink = _highest(scores, before, scale)
        split_acc, totals, left = warpgroup_mma_wait(0, deps=[adding, summing, left])
        mbarrier.arrive(empty.index(stage))
        if new_split:
            row_max, total, acc = _merge(
                row_max, total, acc_buffer.load(VALUES), split_row_max, totals, split_acc, scale
            )
            acc_buffer.store(acc)
            totals = gl.zeros([PIECE_ROWS, ONES], gl.float32, TOTALS)
            split_acc = gl.zeros([PIECE_ROWS, WIDTH], gl.float32, VALUES)
        split_row_max = highest
        # exponentials and products by what sums shrink by take turns, while the other consumer's products run
        totals = totals * _of_totals(shrink)
        split_acc = split_acc * _of_values(shrink)
        left = _weights(scores, reference, scale)
        stage, phase = next_stage(stage, phase, STAGES)
        mbarrier.wait(full.index(stage), phase)

    # unit `tiles`, the last tile's values, is there
    totals = warpgroup_mma_wait(0, deps=[_add_weights(left, ones, totals)])
    # asked for here, and not when it is needed
    next_chunk, next_first_row, next_tokens, next_first_position, next_split_result, next_context, next_first_key, next_tiles = (
        _load_line(work, next_item, items, rows, tables_rows, KV_HEADS, SHARED, SPLIT)
    )  # fmt: skip
    last = first_key + (tiles - 1) * KV_TILE
    if last + KV_TILE > context:
        # slots past the chunk may hold NaN: a copy without them, where the queries were, which nothing reads any more
        v = v_buffers.index(stage).load(WHOLE_ROWS)
        key = last + gl.arange(0, KV_TILE, gl.SliceLayout(1, WHOLE_ROWS))
        sync_threads()
        q_buffer.store(gl.where((key < context)[:, None], v, 0.0))
        fence_async_shared()
        sync_threads()
        split_acc = warpgroup_mma_wait(0, deps=[warpgroup_mma(left, q_buffer, split_acc, is_async=True)])
    else:
        adding = warpgroup_mma(left, v_buffers.index(stage), split_acc, is_async=True)
        split_acc = warpgroup_mma_wait(0, deps=[adding])
    mbarrier.arrive(empty.index(stage))
    stage, phase = next_stage(stage, phase, STAGES)
    row_max, total, acc = _merge(row_max, total, acc_buffer.load(VALUES), split_row_max, totals, split_acc, scale)
    # a context without its blocks is no context: better NaN than numbers made of less
    total = gl.where(missing > 0, float("nan"), total)
    if split_result < 0:
        _store_share(acc, total, q_buffer, out, first_row, tokens, rows, group, heads, SHARED)
    else:
        first_result = split_result.to(gl.int64) + PIECE * piece_tokens
        _store_split(
            row_max, total, acc, split_stats, split_accs, first_result, first_row, tokens, rows, num_split_results, group, heads, SHARED
        )  # fmt: skip
    # what threads have written and read, a bulk copy writes next
    fence_async_shared()
    sync_threads()
    mbarrier.arrive(q_empty.index(use % 2))
    return (
        stage, phase, next_chunk, next_first_row, next_tokens, next_first_position, next_split_result, next_context, next_first_key, next_tiles,
    )  # fmt: skip


@gluon.jit
def _consumer(
    q_buffers, k_buffers, v_buffers, acc_buffers, ones, q_full, q_empty, full, empty, tables, work, out, split_stats, split_accs,
    items, rows, tables_rows, columns, blocks, num_split_results, scale,
    KV_HEADS: gl.constexpr, SHARED: gl.constexpr, BLOCK_SIZE: gl.constexpr, SPLIT: gl.constexpr, PDL: gl.constexpr, PIECE: gl.constexpr,
):  # fmt: skip
    stage = gl.to_tensor(0)
    phase = gl.to_tensor(0)
    use = gl.to_tensor(0)
    chunk, first_row, tokens, first_position, split_result, context, first_key, tiles = _load_line(
        work, _item(0, items), items, rows, tables_rows, KV_HEADS, SHARED, SPLIT
    )
    wait_for_previous(PDL)
    for turn in range(gl.cdiv(items, gl.num_programs(0))):
        next_item = _item(turn + 1, items)
        if tiles > 0:
            stage, phase, chunk, first_row, tokens, first_position, split_result, context, first_key, tiles = _attend(
                q_buffers, k_buffers, v_buffers, acc_buffers.index(PIECE), ones, q_full, q_empty, full, empty,
                tables, work, out, split_stats, split_accs, _item(turn, items), next_item, use, stage, phase,
                chunk, first_row, tokens, first_position, split_result, context, first_key, tiles,
                items, rows, tables_rows, columns, blocks, num_split_results, scale,
                KV_HEADS, SHARED, BLOCK_SIZE, SPLIT, PIECE,
            )  # fmt: skip
            use += 1
        else:
            chunk, first_row, tokens, first_position, split_result, context, first_key, tiles = _load_line(
                work, next_item, items, rows, tables_rows, KV_HEADS, SHARED, SPLIT
            )


@gluon.jit(do_not_specialize=["rows", "tables_rows", "columns", "blocks", "num_split_results", "lines"])
def persistent_attend_kernel(
    q_tiles, kv_tiles, tables, work, lines_in_use, out, split_stats, split_accs,
    rows, tables_rows, columns, blocks, num_split_results, lines, scale,
    KV_HEADS: gl.constexpr, SHARED: gl.constexpr, BLOCK_SIZE: gl.constexpr, SPLIT: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    """Any grid: the items, (line of work, KV head), go round its programs.

    q_tiles: a descriptor of the queries with blocks of (64 / SHARED, SHARED, WIDTH); kv_tiles: of the cache as (slots of keys and values,
    KV_HEADS x WIDTH) with blocks of (KV_TILE, WIDTH), of one block of keys each, as BLOCK_SIZE is a multiple of KV_TILE. Past their ends
    bulk copies read zeros.
    """
    items = load_rows_in_use(lines_in_use, lines) * KV_HEADS
    k_buffers = gl.allocate_shared_memory(gl.bfloat16, [STAGES, KV_TILE, WIDTH], kv_tiles.layout)
    v_buffers = gl.allocate_shared_memory(gl.bfloat16, [STAGES, KV_TILE, WIDTH], kv_tiles.layout)
    q_buffers = gl.allocate_shared_memory(gl.bfloat16, [4, PIECE_ROWS, WIDTH], kv_tiles.layout)
    # 8 numbers of a row lie together, 8 rows' in different banks: what a warp has of the layout of a product
    acc_layout: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 8, [1, 0])
    acc_buffers = gl.allocate_shared_memory(gl.float32, [2, PIECE_ROWS, WIDTH], acc_layout)
    ones = gl.allocate_shared_memory(gl.bfloat16, [ONES, KV_TILE], kv_tiles.layout)
    ones.store(gl.full([ONES, KV_TILE], 1.0, gl.bfloat16, gl.BlockedLayout([1, 4], [2, 16], [4, 1], [1, 0])))
    q_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for use in gl.static_range(2):
        mbarrier.init(q_full.index(use), count=1)
        mbarrier.init(q_empty.index(use), count=2)
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    fence_async_shared()
    sync_threads()

    # fmt: off
    gl.warp_specialize(
        [
            (_consumer, (
                q_buffers, k_buffers, v_buffers, acc_buffers, ones.permute((1, 0)), q_full, q_empty, full, empty,
                tables, work, out, split_stats, split_accs, items, rows, tables_rows, columns, blocks, num_split_results, scale,
                KV_HEADS, SHARED, BLOCK_SIZE, SPLIT, PDL, 0,
            )),
            (_consumer, (
                q_buffers, k_buffers, v_buffers, acc_buffers, ones.permute((1, 0)), q_full, q_empty, full, empty,
                tables, work, out, split_stats, split_accs, items, rows, tables_rows, columns, blocks, num_split_results, scale,
                KV_HEADS, SHARED, BLOCK_SIZE, SPLIT, PDL, 1,
            )),
            (_producer, (
                q_tiles, kv_tiles, q_buffers, k_buffers, v_buffers, q_full, q_empty, full, empty,
                tables, work, items, rows, tables_rows, columns, blocks, KV_HEADS, SHARED, BLOCK_SIZE, SPLIT, PDL,
            )),
        ],
        [4, 1],
        [240, 24],  # registers of a thread of the second consumer and of the producer; the first has what is left, 240
    )
    # fmt: on

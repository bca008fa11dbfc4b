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

from octavo.ops.attention.persistent_line import find_item, load_block, load_line, look_for_missing
from octavo.ops.attention.persistent_softmax import (
    KV_TILE,
    ONES,
    PIECE_ROWS,
    ROW,
    SCORES,
    TOTALS,
    VALUES,
    VALUES_ROW,
    WIDTH,
    add_weights,
    find_highest,
    mask,
    merge,
    multiply_keys,
    of_totals,
    of_values,
    weigh,
)
from octavo.ops.device import load_rows_in_use, wait_for_previous
from octavo.ops.persistent_device import next_stage, sync_threads

STAGES = gl.constexpr(3)
"""As many as shared memory has room for, beside two items' queries and sums of two consumers."""
WHOLE_ROWS = gl.constexpr(gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0]))
"""For memory: each row is read and written as a whole."""


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
        item = find_item(turn)
        chunk, first_row, _, _, _, _, first_key, tiles = load_line(
            work, item, items, rows, tables_rows, KV_HEADS, SHARED, SPLIT
        )
        if tiles > 0:
            group = item % KV_HEADS
            table = tables + chunk.to(gl.int64) * columns
            next_block = load_block(table, first_key, columns, BLOCK_SIZE)
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
                next_block = load_block(table, key + KV_TILE, columns, BLOCK_SIZE)
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
def _store_share(acc, total, q_buffer, out, first_row, tokens, rows, group, heads, SHARED: gl.constexpr):
    """Writes acc / total to `out`, by way of the memory where the queries were."""
    inverse = gl.div_rn(gl.full([PIECE_ROWS], 1.0, gl.float32, ROW), total)
    sync_threads()
    q_buffer.store((acc * of_values(inverse)).to(gl.bfloat16))
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
    coming = multiply_keys(q, k_buffers.index(stage))
    own_end = gl.minimum(first_key + tiles * KV_TILE, first_position + tokens)
    missing = look_for_missing(table, first_key, own_end, columns, blocks, BLOCK_SIZE)
    scores = warpgroup_mma_wait(0, deps=[coming])
    mbarrier.arrive(empty.index(stage))
    scores = mask(scores, first_key, position, seen_by_all)
    split_row_max, reference, shrink = find_highest(scores, nothing, scale)
    left = weigh(scores, reference, scale)
    stage, phase = next_stage(stage, phase, STAGES)
    mbarrier.wait(full.index(stage), phase)
    for tile in range(1, tiles):
        # unit `tile` is there
        start = first_key + tile * KV_TILE
        coming = multiply_keys(q, k_buffers.index(stage))
        summing = add_weights(left, ones, totals)
        adding = warpgroup_mma(left, v_buffers.index(stage), split_acc, is_async=True)
        # the scores are there, the products with weights go on
        scores = warpgroup_mma_wait(2, deps=[coming])
        scores = mask(scores, start, position, seen_by_all)
        new_split = start % SPLIT == 0
        # minus infinity where a split begins, by arithmetic: the branch below comes later
        before = gl.where(new_split, float("-inf"), split_row_max)
        highest, reference, shrink = find_highest(scores, before, scale)
        if blocks < 0:
            # never: without a use here ptxas puts the maxima behind the wait, and not beside the products
            unused = split_stats + gl.arange(0, PIECE_ROWS, ROW)
            gl.store(unused, highest)
            gl.store(unused, shrink)
        split_acc, totals, left = warpgroup_mma_wait(0, deps=[adding, summing, left])
        mbarrier.arrive(empty.index(stage))
        if new_split:
            row_max, total, acc = merge(
                row_max, total, acc_buffer.load(VALUES), split_row_max, totals, split_acc, scale
            )
            acc_buffer.store(acc)
            totals = gl.zeros([PIECE_ROWS, ONES], gl.float32, TOTALS)
            split_acc = gl.zeros([PIECE_ROWS, WIDTH], gl.float32, VALUES)
        split_row_max = highest
        # exponentials and products by what sums shrink by take turns, while the other consumer's products run
        totals = totals * of_totals(shrink)
        split_acc = split_acc * of_values(shrink)
        left = weigh(scores, reference, scale)
        stage, phase = next_stage(stage, phase, STAGES)
        mbarrier.wait(full.index(stage), phase)

    # unit `tiles`, the last tile's values, is there
    totals = warpgroup_mma_wait(0, deps=[add_weights(left, ones, totals)])
    # asked for here, and not when it is needed
    next_chunk, next_first_row, next_tokens, next_first_position, next_split_result, next_context, next_first_key, next_tiles = (
        load_line(work, next_item, items, rows, tables_rows, KV_HEADS, SHARED, SPLIT)
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
    row_max, total, acc = merge(row_max, total, acc_buffer.load(VALUES), split_row_max, totals, split_acc, scale)
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
    chunk, first_row, tokens, first_position, split_result, context, first_key, tiles = load_line(
        work, find_item(0), items, rows, tables_rows, KV_HEADS, SHARED, SPLIT
    )
    wait_for_previous(PDL)
    for turn in range(gl.cdiv(items, gl.num_programs(0))):
        next_item = find_item(turn + 1)
        if tiles > 0:
            stage, phase, chunk, first_row, tokens, first_position, split_result, context, first_key, tiles = _attend(
                q_buffers, k_buffers, v_buffers, acc_buffers.index(PIECE), ones, q_full, q_empty, full, empty,
                tables, work, out, split_stats, split_accs, find_item(turn), next_item, use, stage, phase,
                chunk, first_row, tokens, first_position, split_result, context, first_key, tiles,
                items, rows, tables_rows, columns, blocks, num_split_results, scale,
                KV_HEADS, SHARED, BLOCK_SIZE, SPLIT, PIECE,
            )  # fmt: skip
            use += 1
        else:
            chunk, first_row, tokens, first_position, split_result, context, first_key, tiles = load_line(
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

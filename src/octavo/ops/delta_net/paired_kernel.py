"""The states of one chunk at a time by two warps for 16 value columns, in Gluon: the sums of `spans_kernel`, in their order, and so its bits.

A prompt is one chain of spans for each head and each 16 columns, and takes as long as its links do. In `spans_kernel` one warp splits all of a state, and multiplies it
with keys and queries; of one chunk of 32 heads that is a warp for every other scheduler of an H200. Here each of two warps has every other 8 keys of the
state, splits them, and gives the parts to both by shared memory; each multiplies them with 8 of the keys' rows and 8 of the queries'. What follows, but for the output, both do for
all rows. Of many chunks, which leave no scheduler idle, that would be more to do.

A span's keys, queries, values and factors come by cp.async, STAGES - 1 spans ahead. The compiler puts barriers between writes and reads of shared memory. Keys and
queries are one operand of 32 rows, keys first.

What is kept beside the state, `spans_kernel` keeps.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2

from octavo.config import delta_shape
from octavo.ops.delta_net import kernel
from octavo.ops.delta_net.lines import load_chunk
from octavo.ops.delta_net.parts import split
from octavo.ops.device import is_finite, wait_for_previous

SPAN = gl.constexpr(delta_shape.SPAN)
KINDS = gl.constexpr(kernel.KINDS.value)
COLUMNS = gl.constexpr(16)
"""Value columns of a program, the rows of a product."""
WIDTH = gl.constexpr(128)
"""Numbers of a key, and of a value."""
STAGES = gl.constexpr(3)
STATE = gl.constexpr(gl.NVMMADistributedLayout([2, 0], [1, 2], [16, 8]))
"""Of sums that the warps share out by columns."""
BOTH = gl.constexpr(gl.NVMMADistributedLayout([2, 0], [2, 1], [16, 8]))
"""Of sums of 16 x 16 that each warp has."""
ROWS = gl.constexpr(gl.BlockedLayout([1, 8], [2, 16], [2, 1], [1, 0]))
VALUES = gl.constexpr(gl.BlockedLayout([1, 8], [16, 2], [2, 1], [1, 0]))
LINE = gl.constexpr(gl.BlockedLayout([4], [32], [2], [0]))


@gluon.jit
def _load_span(
    buffers, convolved, factors, matrices, span, head, part, stage, is_there,
    KEY_HEADS: gl.constexpr, VALUE_HEADS: gl.constexpr, FACTORS: gl.constexpr,
):  # fmt: skip
    """Ask for a span's rows and factors, if it is there; one group of copies."""
    pairs, values, parts, numbers = buffers
    queries: gl.constexpr = KEY_HEADS * WIDTH
    channels: gl.constexpr = 2 * queries + VALUE_HEADS * WIDTH
    line = convolved + span * (SPAN * channels)
    row = gl.arange(0, 2 * SPAN, gl.SliceLayout(1, ROWS))
    key = gl.arange(0, WIDTH, gl.SliceLayout(0, ROWS))
    of_row = row % SPAN * channels + gl.where(row < SPAN, queries, 0)
    at = line + head // (VALUE_HEADS // KEY_HEADS) * WIDTH + of_row[:, None] + key[None, :]
    async_copy.async_copy_global_to_shared(pairs.index(stage), at, mask=is_there)
    place = gl.arange(0, SPAN, gl.SliceLayout(1, VALUES))
    column = gl.arange(0, COLUMNS, gl.SliceLayout(0, VALUES))
    at = line + 2 * queries + head * WIDTH + part * COLUMNS + (place * channels)[:, None] + column[None, :]
    async_copy.async_copy_global_to_shared(values.index(stage), at, mask=is_there)
    number = span * VALUE_HEADS + head
    row = gl.arange(0, 4 * SPAN, gl.SliceLayout(1, VALUES))
    at = matrices + number * (2 * FACTORS) + 2 * KINDS * SPAN + (row * SPAN)[:, None] + column[None, :]
    async_copy.async_copy_global_to_shared(parts.index(stage), at, mask=is_there)
    place = gl.arange(0, 8 * SPAN, LINE)
    at = factors + number * FACTORS + place
    async_copy.async_copy_global_to_shared(numbers.index(stage), at, mask=is_there & (place < KINDS * SPAN))
    async_copy.commit_group()


@gluon.jit
def _left(x, LAYOUT: gl.constexpr):
    """The parts of x (16, 16), which each warp has, as the left side of a product with sums in `LAYOUT`."""
    high, low = split(x)
    side: gl.constexpr = gl.DotOperandLayout(0, LAYOUT, 2)
    return gl.convert_layout(high, side, assert_trivial=True), gl.convert_layout(low, side, assert_trivial=True)


@gluon.jit
def _float_product(left, parts, FIRST: gl.constexpr, LAYOUT: gl.constexpr):
    """As `parts.float_product`, of the parts of both sides: (16, 16) x (16, 16)."""
    high, low = left
    right: gl.constexpr = gl.DotOperandLayout(1, LAYOUT, 2)
    other_high = parts.slice(FIRST, SPAN).load(right)
    other_low = parts.slice(FIRST + SPAN, SPAN).load(right)
    zeros = gl.zeros([COLUMNS, SPAN], gl.float32, LAYOUT)
    less = mma_v2(low, other_low, zeros) + mma_v2(low, other_high, zeros)
    less = less + mma_v2(high, other_low, zeros)
    return less + mma_v2(high, other_high, zeros)


@gluon.jit
def _move(
    now, left, buffers, halves, products, earlier, to, stage, begin, count, VALUE_HEADS: gl.constexpr
):  # fmt: skip
    """The state (16, 128) behind a span, whose rows of the output are stored."""
    pairs, values, parts, numbers = buffers
    right: gl.constexpr = gl.DotOperandLayout(1, STATE, 2)
    side: gl.constexpr = gl.DotOperandLayout(0, STATE, 2)
    high, low = split(now)
    highs, lows = halves
    lows.store(low)
    highs.store(high)
    rows = pairs.index(stage).permute((1, 0)).load(right)
    zeros = gl.zeros([COLUMNS, 2 * SPAN], gl.float32, STATE)
    products.store(mma_v2(lows.load(side), rows, zeros) + mma_v2(highs.load(side), rows, zeros))
    known = products.slice(0, SPAN, dim=1).load(BOTH)
    asked = products.slice(SPAN, SPAN, dim=1).load(STATE)

    of_rows = numbers.index(stage)
    lost = of_rows.slice(0, SPAN).load(gl.SliceLayout(0, BOTH))
    seen = of_rows.slice(SPAN, SPAN).load(gl.SliceLayout(0, STATE))
    gained = of_rows.slice(2 * SPAN, SPAN).load(gl.SliceLayout(0, BOTH))
    missing = values.index(stage).permute((1, 0)).load(BOTH).to(gl.float32) - lost[None, :] * known
    is_good = is_finite(missing)
    change = _float_product(_left(gl.where(is_good, missing, 0.0), BOTH), parts.index(stage), 0, BOTH)
    bad = gl.where(is_good & is_finite(change), 0.0, 1.0).to(gl.bfloat16)
    bad_left = gl.convert_layout(bad, gl.DotOperandLayout(0, BOTH, 2), assert_trivial=True)
    zeros = gl.zeros([COLUMNS, SPAN], gl.float32, BOTH)
    is_spoilt = mma_v2(bad_left, earlier.load(gl.DotOperandLayout(1, BOTH, 2)), zeros) > 0.0
    change = gl.where(is_spoilt, 0.0, change)

    # the output: of each warp 8 rows
    bad_left = gl.convert_layout(bad, side, assert_trivial=True)
    zeros = gl.zeros([COLUMNS, SPAN], gl.float32, STATE)
    is_spoilt_row = mma_v2(bad_left, earlier.load(right), zeros) > 0.0
    result = seen[None, :] * asked + _float_product(_left(change, STATE), parts.index(stage), 2 * SPAN, STATE)
    result = gl.where(is_spoilt_row, float("nan"), result).to(gl.bfloat16)
    row = gl.arange(0, SPAN, gl.SliceLayout(0, STATE))
    column = gl.arange(0, COLUMNS, gl.SliceLayout(1, STATE))
    live = ((begin + row >= 0) & (begin + row < count))[None, :] & (column >= 0)[:, None]
    to += begin.to(gl.int64) * (VALUE_HEADS * WIDTH)
    gl.store(to + (row * (VALUE_HEADS * WIDTH))[None, :] + column[:, None], result, mask=live)

    kept = gl.where(gl.max(is_spoilt.to(gl.int32), 1) > 0, float("nan"), left)
    kept = gl.convert_layout(kept, gl.SliceLayout(1, STATE), assert_trivial=True)
    high, low = _left(change * gained[None, :], STATE)
    k = pairs.index(stage).slice(0, SPAN).load(right)
    return mma_v2(high, k, mma_v2(low, k, now * kept[:, None]))


@gluon.jit
def _scan_spans(
    buffers, halves, products, earlier, convolved, factors, matrices, states, out,
    source, state, keep, keep_after, first, count, before, first_span, head, part,
    KEY_HEADS: gl.constexpr, VALUE_HEADS: gl.constexpr, NUMBERS: gl.constexpr, FACTORS: gl.constexpr,
):  # fmt: skip
    """Move a chunk's columns of a head's state on, span after span, and store them where a state is kept."""
    column = part * COLUMNS + gl.arange(0, COLUMNS, gl.SliceLayout(1, STATE))
    key = gl.arange(0, WIDTH, gl.SliceLayout(0, STATE))
    memory = states + head.to(gl.int64) * (WIDTH * WIDTH)
    numbers = column[:, None] * WIDTH + key[None, :]
    now = gl.load(memory + source * NUMBERS + numbers, mask=(numbers >= 0) & (source >= 0), other=0.0)
    to = out + first * (VALUE_HEADS * WIDTH) + head * WIDTH + part * COLUMNS
    kept_spans = (before + keep_after) // SPAN
    full_spans = (before + count) // SPAN
    all_spans = (before + count + SPAN - 1) // SPAN
    # a state that no full span moves stays where it is, if it is there
    moves = (full_spans > 0) | (source != state)
    span = first_span.to(gl.int64)
    lefts = factors + (span * VALUE_HEADS + head) * FACTORS + (KINDS * SPAN - 1)
    next_left = gl.load(lefts)
    for ahead in gl.static_range(STAGES - 1):
        _load_span(
            buffers, convolved, factors, matrices, span + ahead, head, part, ahead, ahead < all_spans, KEY_HEADS, VALUE_HEADS, FACTORS
        )  # fmt: skip
    for index in range(all_spans + 1):
        if (keep_after > 0) & (index == kept_spans):
            gl.store(memory + keep * NUMBERS + numbers, now)
        if moves & (index == full_spans):
            gl.store(memory + state * NUMBERS + numbers, now)
        if index < all_spans:
            left = next_left
            after = gl.minimum(index + 1, all_spans - 1).to(gl.int64)
            next_left = gl.load(lefts + after * (VALUE_HEADS * FACTORS))
            async_copy.wait_group(STAGES - 2)
            now = _move(
                now, left, buffers, halves, products, earlier, to, index % STAGES, index * SPAN - before, count, VALUE_HEADS
            )  # fmt: skip
            coming = index + (STAGES - 1)
            _load_span(
                buffers, convolved, factors, matrices, span + coming, head, part, coming % STAGES, coming < all_spans,
                KEY_HEADS, VALUE_HEADS, FACTORS,
            )  # fmt: skip


@gluon.jit(do_not_specialize=["rows", "num_states", "num_chunks", "num_spans"])
def paired_kernel(
    convolved, factors, matrices, states, chunks, first_single, out, rows, num_states, num_chunks, num_spans,
    KEY_HEADS: gl.constexpr, VALUE_HEADS: gl.constexpr, NUMBERS: gl.constexpr, FACTORS: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    """Grid (value heads x 8,), two warps each, for heads of 128: the chunk that is no single row, where there is one. Writes (rows, value heads x 128) bf16
    and the states that are kept."""
    columns: gl.constexpr = WIDTH // COLUMNS
    part = gl.program_id(0) % columns
    head = gl.program_id(0) // columns
    tall: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 8, [1, 0])
    narrow: gl.constexpr = gl.SwizzledSharedLayout(8, 4, 2, [1, 0])
    buffers = (
        gl.allocate_shared_memory(gl.bfloat16, [STAGES, 2 * SPAN, WIDTH], tall),
        gl.allocate_shared_memory(gl.bfloat16, [STAGES, SPAN, COLUMNS], narrow),
        gl.allocate_shared_memory(gl.bfloat16, [STAGES, 4 * SPAN, SPAN], narrow),
        gl.allocate_shared_memory(gl.float32, [STAGES, 8 * SPAN], gl.SwizzledSharedLayout(1, 1, 1, [0])),
    )
    # each by itself: between writes to one the compiler puts barriers
    halves = (
        gl.allocate_shared_memory(gl.bfloat16, [COLUMNS, WIDTH], tall),
        gl.allocate_shared_memory(gl.bfloat16, [COLUMNS, WIDTH], tall),
    )
    products = gl.allocate_shared_memory(gl.float32, [COLUMNS, 2 * SPAN], gl.SwizzledSharedLayout(4, 2, 4, [1, 0]))
    earlier = gl.allocate_shared_memory(gl.bfloat16, [SPAN, SPAN], narrow)
    row = gl.arange(0, SPAN, gl.SliceLayout(1, VALUES))
    place = gl.arange(0, SPAN, gl.SliceLayout(0, VALUES))
    earlier.store(gl.where(row[:, None] <= place[None, :], 1.0, 0.0).to(gl.bfloat16))
    many = gl.minimum(gl.load(first_single, cache_modifier=".cg"), num_chunks)
    wait_for_previous(PDL)
    if many == 1:
        source, state, keep, keep_after, first, count, before, first_span, _ = load_chunk(
            chunks, first_single, gl.to_tensor(0), num_chunks, rows, num_states, num_spans, SPAN
        )
        if count > 0:
            _scan_spans(
                buffers, halves, products, earlier, convolved, factors, matrices, states, out,
                source, state, keep, keep_after, first, count, before, first_span, head, part, KEY_HEADS, VALUE_HEADS, NUMBERS, FACTORS,
            )  # fmt: skip

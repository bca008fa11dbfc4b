"""The states of few chunks, by a warp for each slice of 16 value columns, in Gluon: the sums of `spans_kernel`, in their order, and so its bits.

A prompt is one chain of spans for each head and each 16 columns, and takes as long as its links do. In `spans_kernel` one warp has all of a state; of one chunk of
32 heads that is a warp for every other scheduler of an H200. Here each of four warps has a slice of 32 keys: it splits that, multiplies it with the keys and
queries of all rows, and gives the sums to all by shared memory. What follows, but for the output, each does for all rows. Of many chunks, which leave no
scheduler idle, that would be more to do.

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
from octavo.ops.delta_net.exact import split
from octavo.ops.delta_net.lines import load_chunk
from octavo.ops.device import is_finite, wait_for_previous

SPAN = gl.constexpr(delta_shape.SPAN)
KINDS = gl.constexpr(kernel.KINDS.value)
COLUMNS = gl.constexpr(16)
"""Value columns of a program, the rows of a product."""
WIDTH = gl.constexpr(128)
"""Numbers of a key, and of a value."""
STAGES = gl.constexpr(3)
SLICES = gl.constexpr(4)
"""Of a key, and warps of a program."""
STATE = gl.constexpr(gl.NVMMADistributedLayout([2, 0], [4, 1, 1], [1, 16, 8]))
"""Of sums that have a slice for each warp."""
ALL = gl.constexpr(gl.NVMMADistributedLayout([2, 0], [4, 1], [16, 8]))
"""Of sums of 16 x 16 that each warp has."""
OUTPUT = gl.constexpr(gl.NVMMADistributedLayout([2, 0], [1, 4], [16, 8]))
"""Of sums of 16 x 16 of which each warp has 8 columns."""
ROWS = gl.constexpr(gl.BlockedLayout([1, 1, 8], [1, 8, 4], [4, 1, 1], [2, 1, 0]))
VALUES = gl.constexpr(gl.BlockedLayout([1, 8], [16, 2], [4, 1], [1, 0]))
LINE = gl.constexpr(gl.BlockedLayout([4], [32], [4], [0]))


@gluon.jit
def _three(length: gl.constexpr, dim: gl.constexpr, LAYOUT: gl.constexpr):
    """0 to length - 1 along one of three dimensions."""
    if dim == 0:
        return gl.arange(0, length, gl.SliceLayout(1, gl.SliceLayout(2, LAYOUT)))[:, None, None]
    elif dim == 1:
        return gl.arange(0, length, gl.SliceLayout(0, gl.SliceLayout(2, LAYOUT)))[None, :, None]
    else:
        return gl.arange(0, length, gl.SliceLayout(0, gl.SliceLayout(1, LAYOUT)))[None, None, :]


@gluon.jit
def _load_span(
    buffers, convolved, factors, matrices, span, head, part, stage, is_there,
    KEY_HEADS: gl.constexpr, VALUE_HEADS: gl.constexpr, FACTORS: gl.constexpr,
):  # fmt: skip
    """Ask for a span's rows and factors, if it is there; one group of copies."""
    pairs, values, parts, numbers = buffers
    queries: gl.constexpr = KEY_HEADS * WIDTH
    channels: gl.constexpr = 2 * queries + VALUE_HEADS * WIDTH
    width: gl.constexpr = WIDTH // SLICES
    line = convolved + span * (SPAN * channels)
    row = _three(2 * SPAN, 1, ROWS)
    at = line + head // (VALUE_HEADS // KEY_HEADS) * WIDTH + row % SPAN * channels + gl.where(row < SPAN, queries, 0)
    at = at + _three(SLICES, 0, ROWS) * width + _three(width, 2, ROWS)
    async_copy.async_copy_global_to_shared(pairs.index(stage), at, mask=is_there)
    place = gl.arange(0, SPAN, gl.SliceLayout(1, VALUES))
    column = gl.arange(0, COLUMNS, gl.SliceLayout(0, VALUES))
    at = line + 2 * queries + head * WIDTH + part * COLUMNS + (place * channels)[:, None] + column[None, :]
    async_copy.async_copy_global_to_shared(values.index(stage), at, mask=is_there)
    number = span * VALUE_HEADS + head
    row = gl.arange(0, 8 * SPAN, gl.SliceLayout(1, VALUES))
    at = matrices + number * (2 * FACTORS) + 2 * KINDS * SPAN + (row * SPAN)[:, None] + column[None, :]
    async_copy.async_copy_global_to_shared(parts.index(stage), at, mask=is_there & (row < 6 * SPAN)[:, None])
    place = gl.arange(0, 8 * SPAN, LINE)
    at = factors + number * FACTORS + place
    async_copy.async_copy_global_to_shared(numbers.index(stage), at, mask=is_there & (place < KINDS * SPAN))
    async_copy.commit_group()


@gluon.jit
def _left(x, LAYOUT: gl.constexpr):
    """The parts of x (16, 16), which each warp has, as the left side of a product with sums in `LAYOUT`."""
    high, middle, low = split(x)
    side: gl.constexpr = gl.DotOperandLayout(0, LAYOUT, 2)
    return (
        gl.convert_layout(high, side, assert_trivial=True),
        gl.convert_layout(middle, side, assert_trivial=True),
        gl.convert_layout(low, side, assert_trivial=True),
    )


@gluon.jit
def _for_all(x):
    """x (16, 16) bf16, which each warp has, as the left side of the products of all slices."""
    side: gl.constexpr = gl.DotOperandLayout(0, STATE, 2)
    one = gl.expand_dims(gl.convert_layout(x, gl.SliceLayout(0, side), assert_trivial=True), 0)
    return one.broadcast_to([SLICES, COLUMNS, SPAN])


@gluon.jit
def _float_product(left, parts, FIRST: gl.constexpr, LAYOUT: gl.constexpr):
    """As `exact.float_product`, of the parts of both sides: (16, 16) x (16, 16)."""
    high, middle, low = left
    right: gl.constexpr = gl.DotOperandLayout(1, LAYOUT, 2)
    other_high = parts.slice(FIRST, SPAN).load(right)
    other_middle = parts.slice(FIRST + SPAN, SPAN).load(right)
    other_low = parts.slice(FIRST + 2 * SPAN, SPAN).load(right)
    zeros = gl.zeros([COLUMNS, SPAN], gl.float32, LAYOUT)
    least = mma_v2(middle, other_middle, mma_v2(high, other_low, mma_v2(low, other_high, zeros)))
    return mma_v2(high, other_high, mma_v2(high, other_middle, mma_v2(middle, other_high, zeros))) + least


@gluon.jit
def _total(sums, FIRST: gl.constexpr, LAYOUT: gl.constexpr):
    """As `exact._total`: of the sums of four slices (4 x 16, 32), the 16 columns from FIRST on."""
    mine = sums.slice(FIRST, SPAN, dim=1)
    one = mine.slice(0, COLUMNS).load(LAYOUT) + mine.slice(COLUMNS, COLUMNS).load(LAYOUT)
    return one + (mine.slice(2 * COLUMNS, COLUMNS).load(LAYOUT) + mine.slice(3 * COLUMNS, COLUMNS).load(LAYOUT))


@gluon.jit
def _move(now, left, buffers, sums, earlier, to, stage, begin, count, VALUE_HEADS: gl.constexpr):
    """The state (SLICES, 16, 32) behind a span, whose rows of the output are stored."""
    pairs, values, parts, numbers = buffers
    side: gl.constexpr = gl.DotOperandLayout(0, STATE, 2)
    high, middle, low = split(now)
    rows = pairs.index(stage).permute((0, 2, 1)).load(gl.DotOperandLayout(1, STATE, 2))
    product = mma_v2(
        gl.convert_layout(low, side, assert_trivial=True),
        rows,
        gl.zeros([SLICES, COLUMNS, 2 * SPAN], gl.float32, STATE),
    )
    product = mma_v2(gl.convert_layout(middle, side, assert_trivial=True), rows, product)
    product = mma_v2(gl.convert_layout(high, side, assert_trivial=True), rows, product)
    sums.store(product.reshape([SLICES * COLUMNS, 2 * SPAN]))
    known, asked = _total(sums, 0, ALL), _total(sums, SPAN, OUTPUT)

    of_rows = numbers.index(stage)
    lost = of_rows.slice(0, SPAN).load(gl.SliceLayout(0, ALL))
    seen = of_rows.slice(SPAN, SPAN).load(gl.SliceLayout(0, OUTPUT))
    gained = of_rows.slice(2 * SPAN, SPAN).load(gl.SliceLayout(0, ALL))
    value = values.index(stage).permute((1, 0)).load(ALL).to(gl.float32)
    missing = gl.fma(-lost[None, :].broadcast_to([COLUMNS, SPAN]), known, value)
    is_good = is_finite(missing)
    change = _float_product(_left(gl.where(is_good, missing, 0.0), ALL), parts.index(stage), 0, ALL)
    bad = gl.where(is_good & is_finite(change), 0.0, 1.0).to(gl.bfloat16)
    bad_left = gl.convert_layout(bad, gl.DotOperandLayout(0, ALL, 2), assert_trivial=True)
    zeros = gl.zeros([COLUMNS, SPAN], gl.float32, ALL)
    is_spoilt = mma_v2(bad_left, earlier.load(gl.DotOperandLayout(1, ALL, 2)), zeros) > 0.0
    change = gl.where(is_spoilt, 0.0, change)

    # the output: of a warp 8 rows
    bad_left = gl.convert_layout(bad, gl.DotOperandLayout(0, OUTPUT, 2), assert_trivial=True)
    zeros = gl.zeros([COLUMNS, SPAN], gl.float32, OUTPUT)
    is_spoilt_row = mma_v2(bad_left, earlier.load(gl.DotOperandLayout(1, OUTPUT, 2)), zeros) > 0.0
    by_changes = _float_product(_left(change, OUTPUT), parts.index(stage), 3 * SPAN, OUTPUT)
    result = gl.fma(seen[None, :].broadcast_to([COLUMNS, SPAN]), asked, by_changes)
    result = gl.where(is_spoilt_row, float("nan"), result).to(gl.bfloat16)
    row = gl.arange(0, SPAN, gl.SliceLayout(0, OUTPUT))
    column = gl.arange(0, COLUMNS, gl.SliceLayout(1, OUTPUT))
    live = ((begin + row >= 0) & (begin + row < count))[None, :] & (column >= 0)[:, None]
    to += begin.to(gl.int64) * (VALUE_HEADS * WIDTH)
    gl.store(to + (row * (VALUE_HEADS * WIDTH))[None, :] + column[:, None], result, mask=live)

    kept = gl.where(gl.max(is_spoilt.to(gl.int32), 1) > 0, float("nan"), left)
    kept = gl.convert_layout(kept, gl.SliceLayout(0, gl.SliceLayout(2, STATE)), assert_trivial=True)
    high, middle, low = split(change * gained[None, :])
    k = pairs.index(stage).slice(0, SPAN, dim=1).load(gl.DotOperandLayout(1, STATE, 2))
    now = mma_v2(_for_all(low), k, now * kept[None, :, None])
    return mma_v2(_for_all(high), k, mma_v2(_for_all(middle), k, now))


@gluon.jit
def _scan_spans(
    buffers, sums, earlier, convolved, factors, matrices, states, out,
    source, state, keep, keep_after, first, count, before, first_span, head, part,
    KEY_HEADS: gl.constexpr, VALUE_HEADS: gl.constexpr, NUMBERS: gl.constexpr, FACTORS: gl.constexpr,
):  # fmt: skip
    """Move a chunk's columns of a head's state on, span after span, and store them where a state is kept."""
    width: gl.constexpr = WIDTH // SLICES
    memory = states + head.to(gl.int64) * (WIDTH * WIDTH) + part * (COLUMNS * WIDTH)
    numbers = _three(COLUMNS, 1, STATE) * WIDTH + (_three(SLICES, 0, STATE) * width + _three(width, 2, STATE))
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
                now, left, buffers, sums, earlier, to, index % STAGES, index * SPAN - before, count, VALUE_HEADS
            )
            coming = index + (STAGES - 1)
            _load_span(
                buffers, convolved, factors, matrices, span + coming, head, part, coming % STAGES, coming < all_spans,
                KEY_HEADS, VALUE_HEADS, FACTORS,
            )  # fmt: skip


@gluon.jit(do_not_specialize=["rows", "num_states", "num_chunks", "num_spans"])
def sliced_kernel(
    convolved, factors, matrices, states, chunks, first_single, out, rows, num_states, num_chunks, num_spans,
    KEY_HEADS: gl.constexpr, VALUE_HEADS: gl.constexpr, NUMBERS: gl.constexpr, FACTORS: gl.constexpr, MOST: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    """Grid (chunks x value heads x 8,), a warp for each slice, for heads of 128: chunks that are no single rows, where there are MOST of them or fewer. Writes
    (rows, value heads x 128) bf16 and the states that are kept."""
    columns: gl.constexpr = WIDTH // COLUMNS
    part = gl.program_id(0) % columns
    head, chunk = gl.program_id(0) // columns % VALUE_HEADS, gl.program_id(0) // (columns * VALUE_HEADS)
    narrow: gl.constexpr = gl.SwizzledSharedLayout(8, 4, 2, [1, 0])
    buffers = (
        gl.allocate_shared_memory(
            gl.bfloat16, [STAGES, SLICES, 2 * SPAN, WIDTH // SLICES], gl.SwizzledSharedLayout(8, 2, 4, [2, 1, 0])
        ),
        gl.allocate_shared_memory(gl.bfloat16, [STAGES, SPAN, COLUMNS], narrow),
        gl.allocate_shared_memory(gl.bfloat16, [STAGES, 8 * SPAN, SPAN], narrow),
        gl.allocate_shared_memory(gl.float32, [STAGES, 8 * SPAN], gl.SwizzledSharedLayout(1, 1, 1, [0])),
    )
    sums = gl.allocate_shared_memory(gl.float32, [SLICES * COLUMNS, 2 * SPAN], gl.SwizzledSharedLayout(4, 2, 4, [1, 0]))
    earlier = gl.allocate_shared_memory(gl.bfloat16, [SPAN, SPAN], narrow)
    row = gl.arange(0, SPAN, gl.SliceLayout(1, VALUES))
    place = gl.arange(0, SPAN, gl.SliceLayout(0, VALUES))
    earlier.store(gl.where(row[:, None] <= place[None, :], 1.0, 0.0).to(gl.bfloat16))
    many = gl.minimum(gl.load(first_single, cache_modifier=".cg"), num_chunks)
    wait_for_previous(PDL)
    if (many <= MOST) & (chunk < many):
        source, state, keep, keep_after, first, count, before, first_span, _ = load_chunk(
            chunks, first_single, chunk, num_chunks, rows, num_states, num_spans, SPAN
        )
        if count > 0:
            _scan_spans(
                buffers, sums, earlier, convolved, factors, matrices, states, out,
                source, state, keep, keep_after, first, count, before, first_span, head, part, KEY_HEADS, VALUE_HEADS, NUMBERS, FACTORS,
            )  # fmt: skip

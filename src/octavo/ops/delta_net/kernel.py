"""Two kernels: what the rows of a span need of each other, each value head by itself; and the states, a block of a head's value
columns each, span after span. Those of single rows: `rows_kernel`; the convolution before: `convolve_kernel`.

What a row sums follows from its place in its span and from the shape alone. Matrices are multiplied by tensor cores in bf16 with
sums in float32. Keys and queries are bf16 as they are; see `parts` for the others. A
row that is not finite is taken out of the products, as 0 times it is not 0, and put into its own and later rows behind them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.delta_net.lines import input_at, load_chunk, load_span, logit_at, open_rows
from octavo.ops.delta_net.pairs import (
    PAIRS,
    beyond,
    by_half,
    diagonal,
    from_pairs,
    halves_and_columns,
    invert,
    pick,
    products_between,
    take,
    to_pairs,
)
from octavo.ops.delta_net.parts import float_product, move, products, split
from octavo.ops.device import is_finite, stay_behind, wait_for_previous

KINDS = tl.constexpr(6)
"""Numbers of each row among the factors of a span."""


@triton.jit
def _softplus(x):
    """log(1 + exp(x)) in f32"""
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def _store_parts(to, x, SPAN: tl.constexpr):
    """The two bf16 of each x (SPAN, SPAN) float32, one matrix behind the other."""
    high, low = split(x)
    tl.store(to, high)
    tl.store(to + SPAN * SPAN, low)


@triton.jit
def _load_queries_and_keys(
    line, opened, begin, count, is_single, channel, inside, channels: tl.constexpr, queries: tl.constexpr, SPAN: tl.constexpr
):  # fmt: skip
    """(SPAN, KEY_BLOCK) each of a span, zeros where it has no row. Of a single row those before it are read where they are kept."""
    place = tl.arange(0, SPAN)
    at = begin + place
    line += place[:, None] * channels + channel[None, :]
    opened += place[:, None] * (channels - queries) + channel[None, :]
    keys = tl.where(((at < 0) & is_single)[:, None], opened, line + queries)
    q = tl.load(line, mask=((at >= 0) & (at < count))[:, None] & inside[None, :], other=0.0)
    return q, tl.load(keys, mask=(at < count)[:, None] & inside[None, :], other=0.0)


@triton.jit
def _of_each_other(keys, by_queries, between, over_k, over_q, write):
    """Pairs of what a row's change takes of those before it, and of what its output takes of them and its own."""
    by_keys, by_changes = (), ()
    of_key, of_query = by_half(over_k * write), by_half(over_q)
    for pair in tl.static_range(PAIRS):
        share = over_k * between[pair]
        taken = keys[pair] * share * take(of_key, pair)
        by_keys += (tl.where(beyond() < 2 * pair, taken, 0.0),)  # type: ignore[assignment]
        seen = by_queries[pair] * share * take(of_query, pair)
        by_changes += (tl.where(beyond() <= 2 * pair, seen, 0.0),)  # type: ignore[assignment]
    return by_keys, by_changes


@triton.jit
def _by_values(by_keys, write):
    """Pairs of what a row's change takes of the values."""
    solved, by_values = invert(by_keys), ()
    for pair in tl.static_range(PAIRS):
        by_values += (tl.where(beyond() <= 2 * pair, solved[pair] * write, 0.0),)  # type: ignore[assignment]
    return by_values


@triton.jit(do_not_specialize=["rows", "num_states", "num_chunks", "num_spans"])
def factors_kernel(
    convolved, write_logits, decay_logits, log_decay, step_bias, states, halves, chunks, first_single, spans, factors, matrices,
    rows, num_states, num_chunks, num_spans, scale, eps,
    KEY_HEADS: tl.constexpr, VALUE_HEADS: tl.constexpr, NUMBERS: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr,
    TAPS: tl.constexpr, SPAN: tl.constexpr, KEY_BLOCK: tl.constexpr, FACTORS: tl.constexpr, WRITE_STRIDE: tl.constexpr,
    DECAY_STRIDE: tl.constexpr, LOGIT_GROUP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (spans x value heads,). Rows of logits are so far apart, and their heads where `logit_at` says. Writes (spans, value heads, FACTORS) float32, and the gates
    of a single row.

    Of each row: what its value loses by the state, what its output takes of it, what the state behind takes of its key, how much it writes,
    what is left of a state before it, what is left of the state before the span. Behind them, as the two bf16 of each number, what a row's
    change takes of the values (SPAN from, SPAN to), and what its output takes of the changes (SPAN from, SPAN to); `matrices` is `factors` as bf16.
    Of a span with a single row both in float32, and the second of that row alone.
    """
    span, head = tl.program_id(0) // VALUE_HEADS, tl.program_id(0) % VALUE_HEADS
    source, first, count, begin, is_single = load_span(
        chunks, first_single, spans, span, num_chunks, rows, num_states, num_spans, SPAN
    )
    if count == 0:
        wait_for_previous(PDL)
    else:
        # numbers of rows in both halves of the warp: what each thread reads once is not read again for another layout
        place = tl.arange(0, 2 * SPAN) % SPAN
        at = begin + place
        live, is_old = (at >= 0) & (at < count), at < 0
        # before the wait: what the convolution does not write, whose wait is the one for all before it
        row, logit = first + at, logit_at(head, KEY_HEADS, VALUE_HEADS, LOGIT_GROUP)
        written = tl.load(write_logits + row * WRITE_STRIDE + logit, mask=live, other=0.0, cache_modifier=".cg")
        speed, bias = tl.exp(tl.load(log_decay + head)), tl.load(step_bias + head)
        lost = tl.load(decay_logits + row * DECAY_STRIDE + logit, mask=live, other=0.0, cache_modifier=".cg")
        gates = states + source * NUMBERS + VALUE_HEADS * KEY * VALUE + place * (2 * VALUE_HEADS) + head
        old_write = tl.load(gates, mask=is_old, other=0.0, cache_modifier=".cg")
        old_decay = tl.load(gates + VALUE_HEADS, mask=is_old, other=1.0, cache_modifier=".cg")
        kept = live & is_single & (place < SPAN - 1) & (tl.arange(0, 2 * SPAN) < SPAN)
        wait_for_previous(PDL)

        queries: tl.constexpr = KEY_HEADS * KEY
        channels: tl.constexpr = 2 * queries + VALUE_HEADS * VALUE
        key = tl.arange(0, KEY_BLOCK)
        channel = head // (VALUE_HEADS // KEY_HEADS) * KEY + key
        line = convolved + span.to(tl.int64) * SPAN * channels
        opened = open_rows(halves, source, KEY_HEADS, VALUE_HEADS, NUMBERS, KEY, VALUE, TAPS, SPAN)
        q, k = _load_queries_and_keys(
            line, opened, begin, count, is_single, channel, key < KEY, channels, queries, SPAN
        )

        write = tl.where(live, 1.0 / (1.0 + tl.exp(-written)), old_write)
        decay = tl.where(live, tl.exp(-speed * _softplus(lost + bias)), old_decay)
        tl.store(gates, write, mask=kept)
        tl.store(gates + VALUE_HEADS, decay, mask=kept)
        write, decay = tl.reshape(write, (2, SPAN)), tl.reshape(decay, (2, SPAN))
        left, between = tl.cumprod(decay, 1), products_between(decay)

        # behind all that needs neither
        q, k = stay_behind(q, 2, PDL), stay_behind(k, 2, PDL)
        keys, by_queries = to_pairs(tl.dot(k, tl.trans(k))), to_pairs(tl.dot(q, tl.trans(k)))
        squares = diagonal(keys), diagonal(to_pairs(tl.dot(q, tl.trans(q))))
        over_k, over_q = tl.rsqrt(squares[0] + eps), tl.rsqrt(squares[1] + eps) * scale
        by_keys, by_changes = _of_each_other(keys, by_queries, between, over_k, over_q, write)
        by_values = _by_values(by_keys, write)

        number = span.to(tl.int64) * VALUE_HEADS + head
        row = tl.arange(0, SPAN)
        matrix = row[None, :] * SPAN + row[:, None]
        if is_single:
            whole = factors + number * FACTORS + KINDS * SPAN
            tl.store(whole + matrix, from_pairs(by_values))
            tl.store(whole + SPAN * SPAN + row, pick(by_changes, -begin))
        else:
            parts = matrices + number * (2 * FACTORS) + 2 * KINDS * SPAN + matrix
            _store_parts(parts, from_pairs(by_values), SPAN)
            _store_parts(parts + 2 * SPAN * SPAN, from_pairs(by_changes), SPAN)
        # two numbers of a row in one store, each from a half of the warp
        half, place = halves_and_columns()
        base = factors + number * FACTORS + half * SPAN + place
        tl.store(base, left * tl.where(half == 0, over_k, over_q))
        tl.store(base + 2 * SPAN, tl.where(half == 0, pick(between, SPAN - 1)[None, :] * over_k, write))
        tl.store(base + 4 * SPAN, tl.where(half == 0, decay, left))


@triton.jit
def _store_history(
    inputs, old, new, after, has_old, channel, at, inside, channels: tl.constexpr, STRIDE: tl.constexpr, TAPS: tl.constexpr
):  # fmt: skip
    """The TAPS - 1 inputs before row `after` of a chunk, some of them perhaps from before it, to `new`, which may be `old`; those of a
    channel are `at` there in a row."""
    # ascending: what is read of the old history lies behind what has been written
    for tap in tl.static_range(TAPS - 1):
        source = (after + (tap - (TAPS - 1))).to(tl.int64)
        now = tl.load(inputs + source * STRIDE + at, mask=inside & (source >= 0), other=0.0)
        before = tl.load(
            old + (source + (TAPS - 1)) * channels + channel, mask=inside & (source < 0) & has_old, other=0.0
        )
        tl.store(new + tap * channels + channel, tl.where(source >= 0, now, before), mask=inside)


@triton.jit
def _store_rows(convolved, rows, channel, mask, channels: tl.constexpr, queries: tl.constexpr):
    """The rows of a span, as far as `mask` says (SPAN, BLOCK), to the open rows at `rows`."""
    place = tl.arange(0, mask.shape[0]).to(tl.int64)[:, None]
    x = tl.load(convolved + place * channels + channel[None, :], mask=mask, other=0.0)
    tl.store(rows + place * (channels - queries) + (channel - queries)[None, :], x, mask=mask)


@triton.jit
def _keep(
    after, place, source, first_span, before, qkv, convolved, factors, states, halves, head, part,
    KEY_HEADS: tl.constexpr, VALUE_HEADS: tl.constexpr, NUMBERS: tl.constexpr,
    KEY: tl.constexpr, VALUE: tl.constexpr, KEY_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr, TAPS: tl.constexpr,
    SPAN: tl.constexpr, STRIDE: tl.constexpr, GROUP: tl.constexpr, FACTORS: tl.constexpr,
):  # fmt: skip
    """Keep at `place`, but for the state, what the next chunk reads behind `after` rows of a chunk: the columns of this program, and
    the queries, keys and gates of its head if it is the first to have them."""
    shared: tl.constexpr = VALUE_HEADS // KEY_HEADS
    queries: tl.constexpr = KEY_HEADS * KEY
    channels: tl.constexpr = 2 * queries + VALUE_HEADS * VALUE
    key, column = tl.arange(0, KEY_BLOCK), part * VALUE_BLOCK + tl.arange(0, VALUE_BLOCK)
    in_key, in_value = key < KEY, column < VALUE
    query_at = head // shared * KEY + key
    key_at, value_at = queries + query_at, 2 * queries + head * VALUE + column
    floats: tl.constexpr = VALUE_HEADS * KEY * VALUE + (SPAN - 1) * 2 * VALUE_HEADS
    to, old = halves + place * (2 * NUMBERS) + 2 * floats, halves + source * (2 * NUMBERS) + 2 * floats
    seen = source >= 0
    of_value = input_at(value_at, KEY_HEADS, VALUE_HEADS, KEY, VALUE, GROUP)
    _store_history(qkv, old, to, after, seen, value_at, of_value, in_value, channels, STRIDE, TAPS)

    index = (before + after) // SPAN
    span = (first_span + index).to(tl.int64)
    row = tl.arange(0, SPAN)
    # those that the source has are there already
    fresh = (row < (before + after) % SPAN) & ((row >= before) | (index > 0) | (place != source))
    inputs, rows = convolved + span * SPAN * channels, to + (TAPS - 1) * channels
    _store_rows(inputs, rows, value_at, fresh[:, None] & in_value[None, :], channels, queries)
    if part == 0:
        base = factors + (span * VALUE_HEADS + head) * FACTORS + row
        gates = states + place * NUMBERS + VALUE_HEADS * KEY * VALUE + row * (2 * VALUE_HEADS) + head
        tl.store(gates, tl.load(base + 3 * SPAN, mask=fresh, other=0.0), mask=fresh)
        tl.store(gates + VALUE_HEADS, tl.load(base + 4 * SPAN, mask=fresh, other=0.0), mask=fresh)
        if head % shared == 0:
            of_query = input_at(query_at, KEY_HEADS, VALUE_HEADS, KEY, VALUE, GROUP)
            _store_history(qkv, old, to, after, seen, query_at, of_query, in_key, channels, STRIDE, TAPS)
            of_key = input_at(key_at, KEY_HEADS, VALUE_HEADS, KEY, VALUE, GROUP)
            _store_history(qkv, old, to, after, seen, key_at, of_key, in_key, channels, STRIDE, TAPS)
            _store_rows(inputs, rows, key_at, fresh[:, None] & in_key[None, :], channels, queries)


@triton.jit
def _load_whole(at, inside, IS_WHOLE: tl.constexpr):
    """What is at `at`, zeros where it is not `inside`; IS_WHOLE: it is everywhere."""
    if IS_WHOLE:
        return tl.load(at)
    else:
        return tl.load(at, mask=inside, other=0.0)


@triton.jit
def _scan_spans(
    qkv, convolved, factors, matrices, states, halves, out, source, state, keep, keep_after, first, count, before, first_span,
    head, part, moves_on, KEY_HEADS: tl.constexpr, VALUE_HEADS: tl.constexpr, NUMBERS: tl.constexpr, KEY: tl.constexpr,
    VALUE: tl.constexpr, KEY_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr, TAPS: tl.constexpr, SPAN: tl.constexpr,
    STRIDE: tl.constexpr, GROUP: tl.constexpr, FACTORS: tl.constexpr,
):  # fmt: skip
    """Move a chunk's columns of a head's state on, span after span: its rows of the output, and what is kept. Where not `moves_on`, what is kept beside
    the state alone."""
    queries: tl.constexpr = KEY_HEADS * KEY
    channels: tl.constexpr = 2 * queries + VALUE_HEADS * VALUE
    key, column = tl.arange(0, KEY_BLOCK), part * VALUE_BLOCK + tl.arange(0, VALUE_BLOCK)
    in_key, in_value = key < KEY, column < VALUE
    inside = in_value[:, None] & in_key[None, :]
    numbers = column[:, None] * KEY + key[None, :]
    memory = states + head.to(tl.int64) * (KEY * VALUE)
    now = tl.load(memory + source * NUMBERS + numbers, mask=inside & (count > 0) & (source >= 0), other=0.0)
    place = tl.arange(0, SPAN)
    matrix = place[:, None] * SPAN + place[None, :]
    up_to = tl.where(place[:, None] <= place[None, :], 1.0, 0.0).to(tl.bfloat16)
    keys_at = place[:, None] * channels + head // (VALUE_HEADS // KEY_HEADS) * KEY + key[None, :]
    values_at = place[None, :] * channels + 2 * queries + head * VALUE + column[:, None]
    outs_at = place[None, :] * (VALUE_HEADS * VALUE) + head * VALUE + column[:, None]
    kept_spans = tl.where(keep_after > 0, (before + keep_after) // SPAN, 0)
    full_spans, all_spans = (before + count) // SPAN, tl.cdiv(before + count, SPAN)
    # a state that no full span moves stays where it is, if it is there
    moves = (full_spans > 0) | (source != state)
    last = tl.where(moves, full_spans, all_spans)
    # to the state that is kept, to the one behind the last full span, and to the end: what a span leaves that is not full is no state
    for piece in range(tl.where(keep_after > 0, 0, 1), tl.where(count > 0, tl.where(last < all_spans, 3, 2), 0)):
        begins = tl.where(piece == 0, 0, tl.where(piece == 1, kept_spans, last))
        ends = tl.where(piece == 0, kept_spans, tl.where(piece == 1, last, all_spans))
        for index in range(begins, tl.where(moves_on, ends, begins)):
            span, begin = (first_span + index).to(tl.int64), index * SPAN - before
            live = (begin + place >= 0) & (begin + place < count)
            line = convolved + span * SPAN * channels
            q = _load_whole(line + keys_at, in_key[None, :], KEY == KEY_BLOCK)
            k = _load_whole(line + queries + keys_at, in_key[None, :], KEY == KEY_BLOCK)
            v = _load_whole(line + values_at, in_value[:, None], VALUE % VALUE_BLOCK == 0)
            number = span * VALUE_HEADS + head
            base, parts = factors + number * FACTORS, matrices + number * (2 * FACTORS) + 2 * KINDS * SPAN + matrix
            by_values = tl.load(parts), tl.load(parts + SPAN * SPAN)
            by_changes = tl.load(parts + 2 * SPAN * SPAN), tl.load(parts + 3 * SPAN * SPAN)
            lost, seen = tl.load(base + place), tl.load(base + SPAN + place)
            gained, left = tl.load(base + 2 * SPAN + place), tl.load(base + KINDS * SPAN - 1)

            known, asked = products(now, tl.trans(k), tl.trans(q))
            missing = v.to(tl.float32) - lost[None, :] * known
            is_good = is_finite(missing)
            change = float_product(tl.where(is_good, missing, 0.0), by_values[0], by_values[1])
            bad = tl.where(is_good & is_finite(change), 0.0, 1.0).to(tl.bfloat16)
            is_spoilt = tl.dot(bad, up_to) > 0.0
            change = tl.where(is_spoilt, 0.0, change)
            result = seen[None, :] * asked
            result += float_product(change, by_changes[0], by_changes[1])
            result = tl.where(is_spoilt, float("nan"), result).to(tl.bfloat16)
            to = out + (first + begin) * (VALUE_HEADS * VALUE)
            tl.store(to + outs_at, result, mask=live[None, :] & in_value[:, None])
            left = tl.where(tl.max(is_spoilt.to(tl.int32), 1) > 0, float("nan"), left)
            now = move(now * left[:, None], change * gained[None, :], k)
        if piece < 2:
            target = tl.where(piece == 0, keep, state)
            if moves_on & ((piece == 0) | moves):
                tl.store(memory + target * NUMBERS + numbers, now, mask=inside)
            _keep(
                tl.where(piece == 0, keep_after, count), target, source, first_span, before, qkv + first * STRIDE,
                convolved, factors, states, halves, head, part, KEY_HEADS, VALUE_HEADS, NUMBERS,
                KEY, VALUE, KEY_BLOCK, VALUE_BLOCK, TAPS, SPAN, STRIDE, GROUP, FACTORS,
            )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "num_states", "num_chunks", "num_spans"])
def spans_kernel(
    qkv, convolved, factors, matrices, states, halves, chunks, first_single, out,
    rows, num_states, num_chunks, num_spans,
    KEY_HEADS: tl.constexpr, VALUE_HEADS: tl.constexpr, NUMBERS: tl.constexpr,
    KEY: tl.constexpr, VALUE: tl.constexpr, KEY_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr, TAPS: tl.constexpr,
    SPAN: tl.constexpr, STRIDE: tl.constexpr, GROUP: tl.constexpr, FACTORS: tl.constexpr, ONE_IS_PAIRED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (groups x value heads x ceil(VALUE / VALUE_BLOCK),): chunks that are no single rows, each by a group. Rows of qkv are
    STRIDE apart, and what they hold is where `input_at` says. Writes (rows, value heads x VALUE) bf16 and what is kept. ONE_IS_PAIRED: a chunk that is the only one is `paired_kernel`'s, but for what is
    kept beside its state."""
    parts: tl.constexpr = (VALUE + VALUE_BLOCK - 1) // VALUE_BLOCK
    part, head = tl.program_id(0) % parts, tl.program_id(0) // parts % VALUE_HEADS
    group, groups = tl.program_id(0) // parts // VALUE_HEADS, tl.num_programs(0) // parts // VALUE_HEADS
    many = tl.minimum(tl.load(first_single, cache_modifier=".cg"), num_chunks)
    wait_for_previous(PDL)
    for turn in range(tl.cdiv(many - group, groups)):
        source, state, keep, keep_after, first, count, before, first_span, _ = load_chunk(
            chunks, first_single, group + turn * groups, num_chunks, rows, num_states, num_spans, SPAN
        )
        _scan_spans(
            qkv, convolved, factors, matrices, states, halves, out, source, state, keep, keep_after, first, count, before, first_span,
            head, part, (not ONE_IS_PAIRED) | (many != 1), KEY_HEADS, VALUE_HEADS, NUMBERS, KEY, VALUE, KEY_BLOCK, VALUE_BLOCK, TAPS, SPAN, STRIDE, GROUP, FACTORS,
        )  # fmt: skip

"""The convolution of the inputs before the delta rule, a block of channels of a span each.

What a row sums follows from the shape alone: each of its inputs times its weight, the oldest first, in float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.delta_net.lines import input_at, load_span
from octavo.ops.device import silu, stay_behind, wait_for_previous


@triton.jit
def _load_taps(taps, first, channels: tl.constexpr, TAPS: tl.constexpr, WIDE: tl.constexpr):
    """What `_weights` takes, of the channels from `first` on; of four taps in one piece: tap by tap, each read would touch all lines for a
    fourth of their bytes."""
    if TAPS == 4:
        number = first * TAPS + tl.arange(0, WIDE * TAPS)
        return tl.load(taps + number, mask=number < channels * TAPS, other=0.0, cache_modifier=".cg")
    else:
        channel, numbers = first + tl.arange(0, WIDE), ()
        for tap in tl.static_range(TAPS):
            mask = channel < channels
            number = tl.load(taps + channel * TAPS + tap, mask=mask, other=0.0, cache_modifier=".cg")
            numbers += (number,)  # type: ignore[assignment]
        return numbers


@triton.jit
def _weights(numbers, TAPS: tl.constexpr, WIDE: tl.constexpr, PDL: tl.constexpr):
    """(WIDE,) float32 of each tap."""
    if TAPS == 4:
        even, odd = tl.split(tl.reshape(stay_behind(numbers, 2, PDL), (WIDE * 2, 2)))
        first, third = tl.split(tl.reshape(even, (WIDE, 2)))
        second, fourth = tl.split(tl.reshape(odd, (WIDE, 2)))
        return first.to(tl.float32), second.to(tl.float32), third.to(tl.float32), fourth.to(tl.float32)
    else:
        weights = ()
        for tap in tl.static_range(TAPS):
            weights += (numbers[tap].to(tl.float32),)  # type: ignore[assignment]
        return weights


@triton.jit
def _convolve_row(
    row, numbers, history, rows, before, to, channel, at, channels: tl.constexpr, queries: tl.constexpr, TAPS: tl.constexpr,
    SPAN: tl.constexpr, WIDE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Convolve the channels of a single row, whose inputs are `at` there, and put them, where they are keys and values, among the open rows, and the inputs in
    the history, each channel in the program that alone reads it."""
    inside = channel < channels
    new, old = tl.load(row + at, mask=inside, other=0.0), ()
    for tap in tl.static_range(TAPS - 1):
        old += (tl.load(history + tap * channels + channel, mask=inside, other=0.0),)  # type: ignore[assignment]
    weights = _weights(numbers, TAPS, WIDE, PDL)
    total = tl.zeros(channel.shape, tl.float32)
    for tap in tl.static_range(TAPS - 1):
        total += old[tap].to(tl.float32) * weights[tap]
    total += new.to(tl.float32) * weights[TAPS - 1]
    result = silu(total).to(tl.bfloat16)
    tl.store(to + channel, result, mask=inside)
    kept = rows + before.to(tl.int64) * (channels - queries) + (channel - queries)
    tl.store(kept, result, mask=inside & (channel >= queries) & (before < SPAN - 1))
    # threads need not share out two places alike: what is written has been read by all
    tl.debug_barrier()
    for tap in tl.static_range(TAPS - 2):
        tl.store(history + tap * channels + channel, old[tap + 1], mask=inside)
    tl.store(history + (TAPS - 2) * channels + channel, new, mask=inside)


@triton.jit
def _load_inputs(
    inputs, history, has_history, begin, count, channel, at, channels: tl.constexpr, TAPS: tl.constexpr, SPAN: tl.constexpr,
    STRIDE: tl.constexpr, ALL_NEW: tl.constexpr,
):  # fmt: skip
    """The inputs of a span's rows and of TAPS - 1 before them, zeros where there are none. ALL_NEW: all are the chunk's."""
    new, old, numbers = inputs + begin.to(tl.int64) * STRIDE, history + begin.to(tl.int64) * channels, ()
    for place in tl.static_range(1 - TAPS, SPAN):
        row, line, place_in, inside = begin + place, new + place * STRIDE, at, channel < channels
        if ALL_NEW:
            inside &= row < count
        else:
            line = tl.where(row < 0, old + (place + (TAPS - 1)) * channels, line)
            place_in = tl.where(row < 0, channel, at)
            inside &= tl.where(row < 0, (row >= 1 - TAPS) & has_history, row < count)
        numbers += (tl.load(line + place_in, mask=inside, other=0.0),)  # type: ignore[assignment]
    return numbers


@triton.jit
def _convolve_span(
    inputs, numbers, history, has_history, line, begin, count, channel, at, channels: tl.constexpr, TAPS: tl.constexpr,
    SPAN: tl.constexpr, STRIDE: tl.constexpr, WIDE: tl.constexpr, ALL_NEW: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Convolve channels of a span's rows that are the chunk's, from row `begin` of the chunk on. Each input is read once, and all
    are asked for before the first is waited for."""
    rows = _load_inputs(inputs, history, has_history, begin, count, channel, at, channels, TAPS, SPAN, STRIDE, ALL_NEW)
    weights = _weights(numbers, TAPS, WIDE, PDL)
    for place in tl.static_range(SPAN):
        total = tl.zeros(channel.shape, tl.float32)
        for tap in tl.static_range(TAPS):
            total += rows[place + tap].to(tl.float32) * weights[tap]
        live = (begin + place >= 0) & (begin + place < count)
        tl.store(line + place * channels + channel, silu(total).to(tl.bfloat16), mask=(channel < channels) & live)


@triton.jit
def _fill_span(rows, line, begin, count, channel, channels: tl.constexpr, queries: tl.constexpr, SPAN: tl.constexpr):
    """Channels of a span's rows that are not the chunk's: the open rows before it, and zeros, so that who reads a span that is not
    full needs no masks."""
    inside = channel < channels
    numbers = ()
    for place in tl.static_range(SPAN):
        of_row = rows + place * (channels - queries) + (channel - queries)
        is_old = (begin + place < 0) & (place < SPAN - 1)
        numbers += (tl.load(of_row, mask=inside & is_old & (channel >= queries), other=0.0),)  # type: ignore[assignment]
    for place in tl.static_range(SPAN):
        is_other = (begin + place < 0) | (begin + place >= count)
        tl.store(line + place * channels + channel, numbers[place], mask=inside & is_other)


@triton.jit(do_not_specialize=["rows", "num_states", "num_chunks", "num_spans"])
def convolve_kernel(
    qkv, taps, halves, chunks, first_single, spans, convolved, rows, num_states, num_chunks, num_spans,
    KEY_HEADS: tl.constexpr, VALUE_HEADS: tl.constexpr, NUMBERS: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr,
    TAPS: tl.constexpr, SPAN: tl.constexpr, STRIDE: tl.constexpr, GROUP: tl.constexpr, WIDE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (spans x ceil(channels / WIDE),). Rows of qkv are STRIDE apart, and what they hold is where `input_at` says. Writes (spans, SPAN, channels) bf16, the open rows' keys
    and values among them, and zeros where a span has no row; of a single row it alone, and what is kept of it but for the gates."""
    queries: tl.constexpr = KEY_HEADS * KEY
    channels: tl.constexpr = 2 * queries + VALUE_HEADS * VALUE
    blocks: tl.constexpr = (channels + WIDE - 1) // WIDE
    floats: tl.constexpr = VALUE_HEADS * KEY * VALUE + (SPAN - 1) * 2 * VALUE_HEADS
    wide = tl.program_id(0) % blocks * WIDE
    # before the wait: no kernel writes weights
    numbers = _load_taps(taps, wide, channels, TAPS, WIDE)
    wait_for_previous(PDL)
    span = tl.program_id(0) // blocks
    source, first, count, begin, is_single = load_span(
        chunks, first_single, spans, span, num_chunks, rows, num_states, num_spans, SPAN
    )
    history = halves + source * (2 * NUMBERS) + 2 * floats
    kept = history + (TAPS - 1) * channels
    inputs = qkv + first * STRIDE
    line = convolved + span.to(tl.int64) * SPAN * channels
    channel = wide + tl.arange(0, WIDE)
    at = input_at(channel, KEY_HEADS, VALUE_HEADS, KEY, VALUE, GROUP)
    if is_single & (count > 0):
        to = line - begin.to(tl.int64) * channels
        _convolve_row(inputs, numbers, history, kept, -begin, to, channel, at, channels, queries, TAPS, SPAN, WIDE, PDL)
    elif count > 0:
        if (begin < 0) | (begin + SPAN > count):
            _fill_span(kept, line, begin, count, channel, channels, queries, SPAN)
        seen = source >= 0
        if begin >= TAPS - 1:
            _convolve_span(
                inputs, numbers, history, seen, line, begin, count, channel, at, channels, TAPS, SPAN, STRIDE, WIDE, True, PDL
            )  # fmt: skip
        else:
            _convolve_span(
                inputs, numbers, history, seen, line, begin, count, channel, at, channels, TAPS, SPAN, STRIDE, WIDE, False, PDL
            )  # fmt: skip

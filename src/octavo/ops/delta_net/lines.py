"""What kernels of Gated DeltaNet read of a plan and find in a state."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_chunk(chunks, first_single, chunk, num_chunks, rows, num_states, num_spans, SPAN: tl.constexpr):
    """Source (-1: none), state, keep (-1: none) and the rows before it, first row, rows (0 where anything is out of range), rows of
    the first span before the chunk's, the number of that span, and whether it is one of the single rows; see `DeltaPlan`. Past
    the first cache, which might hold the last step's where nothing has been waited for yet."""
    inside = (chunk >= 0) & (chunk < num_chunks)
    line = chunks + chunk.to(tl.int64) * 8
    source = tl.load(line, mask=inside, other=-2, cache_modifier=".cg")
    state = tl.load(line + 1, mask=inside, other=-1, cache_modifier=".cg")
    keep = tl.load(line + 2, mask=inside, other=-1, cache_modifier=".cg")
    keep_after = tl.load(line + 3, mask=inside, other=0, cache_modifier=".cg")
    first = tl.load(line + 4, mask=inside, other=0, cache_modifier=".cg")
    count = tl.load(line + 5, mask=inside, other=0, cache_modifier=".cg")
    before = tl.load(line + 6, mask=inside, other=0, cache_modifier=".cg")
    first_span = tl.load(line + 7, mask=inside, other=0, cache_modifier=".cg")
    known = (source >= -1) & (source < num_states) & (state >= 0) & (state < num_states)
    known &= (first >= 0) & (first <= rows) & (count >= 0)
    known &= count <= rows - first
    known &= (before >= 0) & (before < SPAN) & ((before == 0) | (source >= 0))
    count = tl.where(known, count, 0)
    count = tl.where((first_span >= 0) & (tl.cdiv(before + count, SPAN) <= num_spans - first_span), count, 0)
    is_single = chunk >= tl.load(first_single, cache_modifier=".cg")
    count = tl.where(is_single & ((count != 1) | (source != state) | (keep >= 0)), 0, count)
    keeps = (keep >= 0) & (keep < num_states) & (keep_after > 0) & (keep_after <= count)
    return (
        source.to(tl.int64),
        state.to(tl.int64),
        keep.to(tl.int64),
        tl.where(keeps, keep_after, 0),
        first.to(tl.int64),
        count,
        before,
        first_span,
        is_single,
    )


@triton.jit
def load_span(chunks, first_single, spans, span, num_chunks, rows, num_states, num_spans, SPAN: tl.constexpr):
    """Source, first row and rows of the chunk that has a span (no rows: none has), the place of the span's first row in it, and
    whether it is one of the single rows; see `load_chunk`."""
    source, _, _, _, first, count, before, first_span, is_single = load_chunk(
        chunks, first_single, tl.load(spans + span, cache_modifier=".cg"), num_chunks, rows, num_states, num_spans, SPAN
    )
    index = span - first_span
    begin = index * SPAN - before
    return source, first, tl.where((index >= 0) & (begin < count), count, 0), begin, is_single


@triton.jit
def open_rows(
    halves, source, KEY_HEADS: tl.constexpr, VALUE_HEADS: tl.constexpr, NUMBERS: tl.constexpr, KEY: tl.constexpr,
    VALUE: tl.constexpr, TAPS: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """Where the keys and values of a state's open rows are; see `DeltaShape.state`."""
    channels: tl.constexpr = 2 * KEY_HEADS * KEY + VALUE_HEADS * VALUE
    floats: tl.constexpr = VALUE_HEADS * KEY * VALUE + (SPAN - 1) * 2 * VALUE_HEADS
    return halves + source * (2 * NUMBERS) + 2 * floats + (TAPS - 1) * channels


@triton.jit
def input_at(
    channel, KEY_HEADS: tl.constexpr, VALUE_HEADS: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr, GROUP: tl.constexpr
):  # fmt: skip
    """Where in a row of inputs each channel stands: at its own number, or with a GROUP where its key head's numbers do, which begin so far
    apart: queries, keys, values."""
    if GROUP == 0:
        return channel
    else:
        queries: tl.constexpr = KEY_HEADS * KEY
        values: tl.constexpr = VALUE_HEADS // KEY_HEADS * VALUE
        behind = channel % queries
        of_key = behind // KEY * GROUP + behind % KEY + tl.where(channel < queries, 0, KEY)
        behind = channel - 2 * queries
        of_value = behind // values * GROUP + behind % values + 2 * KEY
        at = tl.where(channel < 2 * queries, of_key, of_value)
        if (KEY % 8 == 0) & (VALUE % 8 == 0) & (GROUP % 8 == 0):
            at = tl.max_contiguous(tl.multiple_of(at, 8), 8)
        return at


@triton.jit
def logit_at(head, KEY_HEADS: tl.constexpr, VALUE_HEADS: tl.constexpr, GROUP: tl.constexpr):
    """As `input_at`, of the logits of a value head."""
    if GROUP == 0:
        return head
    else:
        return head // (VALUE_HEADS // KEY_HEADS) * GROUP + head % (VALUE_HEADS // KEY_HEADS)

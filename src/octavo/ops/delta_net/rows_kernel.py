"""The states of single rows, each of which goes on in its request's state: decode."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.delta_net.kernel import KINDS
from octavo.ops.delta_net.lines import load_chunk, open_rows
from octavo.ops.delta_net.parts import float_product, move, products, split
from octavo.ops.device import is_finite, stay_behind, wait_for_previous


@triton.jit
def _scan_row(
    convolved, factors, states, halves, out, source, first, before, first_span, head, part,
    KEY_HEADS: tl.constexpr, VALUE_HEADS: tl.constexpr, NUMBERS: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr,
    KEY_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr, TILES: tl.constexpr, TAPS: tl.constexpr, SPAN: tl.constexpr,
    FACTORS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """What `spans_kernel` computes, of a single row: the same sums, of its own output alone, and no move of a state whose span is not full.

    All but the factors is read before the wait, past the first cache: the kernel before lets this one start behind its own
    wait for the convolution, the last to write any of it.
    """
    queries: tl.constexpr = KEY_HEADS * KEY
    channels: tl.constexpr = 2 * queries + VALUE_HEADS * VALUE
    half: tl.constexpr = KEY_BLOCK // 2
    key = tl.arange(0, KEY_BLOCK)
    in_key = key < KEY
    memory = states + source * NUMBERS + head.to(tl.int64) * (KEY * VALUE)
    place, span = tl.arange(0, SPAN), first_span.to(tl.int64)
    used, is_new = (place <= before)[None, :], (place == before)[None, :]
    line = convolved + span * SPAN * channels
    opened = open_rows(halves, source, KEY_HEADS, VALUE_HEADS, NUMBERS, KEY, VALUE, TAPS, SPAN)
    new_at, old_at = (place * channels)[None, :], (place * (channels - queries))[None, :]
    key_at = (head // (VALUE_HEADS // KEY_HEADS) * KEY + key)[:, None]
    keys = tl.where(is_new, line + new_at + queries + key_at, opened + old_at + key_at)
    # the least columns of a product, all alike
    same = tl.zeros((8,), tl.int32)[None, :]
    queried = line + before * channels + key_at + same
    of_rows = factors + (span * VALUE_HEADS + head) * FACTORS
    for tile in tl.static_range(TILES):
        column = (part * TILES + tile) * VALUE_BLOCK + tl.arange(0, VALUE_BLOCK)
        in_value = column < VALUE
        value_at = (head * VALUE + column)[:, None]
        values = tl.where(is_new, line + new_at + 2 * queries + value_at, opened + old_at + queries + value_at)
        # in halves of a row: a tile of a shape of its own is read without gaps, which this cache would fill by reading twice
        by_halves = (tl.arange(0, 2)[:, None] * half + tl.arange(0, half)[None, :])[None, :, :]
        present = in_value[:, None, None] & (by_halves < KEY)
        now = tl.load(memory + column[:, None, None] * KEY + by_halves, mask=present, other=0.0, cache_modifier=".cg")
        if tile == 0:
            k = tl.load(keys, mask=used & in_key[:, None], other=0.0, cache_modifier=".cg")
            q = tl.load(queried, mask=in_key[:, None] & (same == 0), other=0.0, cache_modifier=".cg")
        v = tl.load(values, mask=used & in_value[:, None], other=0.0, cache_modifier=".cg")
        now = stay_behind(now, 1, PDL)
        if tile == 0:
            k, q = stay_behind(k, 2, PDL), stay_behind(q, 2, PDL)
        known, asked = products(tl.reshape(now, (VALUE_BLOCK, KEY_BLOCK)), k, q)
        if tile == 0:
            wait_for_previous(PDL)
            matrix = of_rows + KINDS * SPAN + place[:, None] * SPAN
            by_values = split(tl.load(matrix + place[None, :]))
            by_changes = split(tl.load(of_rows + (KINDS + SPAN) * SPAN + place[:, None] + same))
            lost, seen = tl.load(of_rows + place)[None, :], tl.load(of_rows + SPAN + before)
        missing = v.to(tl.float32) - lost * known
        is_good = is_finite(missing)
        change = float_product(tl.where(is_good, missing, 0.0), by_values[0], by_values[1])
        bad = tl.where(is_good & is_finite(change), 0, 1)
        is_spoilt = tl.max(tl.where(used, bad, 0), 1)[:, None] > 0
        change = tl.where(is_spoilt | (place > before)[None, :], 0.0, change)
        result = seen * asked + float_product(change, by_changes[0], by_changes[1])
        result = tl.where(is_spoilt, float("nan"), result).to(tl.bfloat16)
        to = out + first * (VALUE_HEADS * VALUE) + value_at + same
        tl.store(to, result, mask=in_value[:, None] & (tl.arange(0, 8) == 0)[None, :])
        if before == SPAN - 1:
            # both once more: what is kept for one row of sixteen is moved between threads for every one
            at = memory + column[:, None] * KEY + key[None, :]
            inside = in_value[:, None] & in_key[None, :]
            start = tl.load(at, mask=inside, other=0.0, cache_modifier=".cg")
            moved = tl.load(keys, mask=used & in_key[:, None], other=0.0, cache_modifier=".cg")
            gained, left = tl.load(of_rows + 2 * SPAN + place)[None, :], tl.load(of_rows + KINDS * SPAN - 1)
            left = tl.where(is_spoilt, float("nan"), left)
            tl.store(at, move(start * left, change * gained, tl.trans(moved)), mask=inside)


@triton.jit(do_not_specialize=["rows", "num_states", "num_chunks", "num_spans"])
def rows_kernel(
    convolved, factors, states, halves, chunks, first_single, out, rows, num_states, num_chunks, num_spans,
    KEY_HEADS: tl.constexpr, VALUE_HEADS: tl.constexpr, NUMBERS: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr,
    KEY_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr, TILES: tl.constexpr, TAPS: tl.constexpr, SPAN: tl.constexpr,
    FACTORS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (chunks x value heads x ceil(VALUE / (TILES x VALUE_BLOCK)),). Writes (rows, value heads x VALUE) bf16 of single rows and,
    behind full spans, states. The kernel before must wait for the one before it before it lets this one start."""
    parts: tl.constexpr = (VALUE + TILES * VALUE_BLOCK - 1) // (TILES * VALUE_BLOCK)
    part, head = tl.program_id(0) % parts, tl.program_id(0) // parts % VALUE_HEADS
    chunk = tl.program_id(0) // parts // VALUE_HEADS
    source, _, _, _, first, count, before, first_span, is_single = load_chunk(
        chunks, first_single, chunk, num_chunks, rows, num_states, num_spans, SPAN
    )
    if is_single & (count > 0):
        _scan_row(
            convolved, factors, states, halves, out, source, first, before, first_span, head, part, KEY_HEADS, VALUE_HEADS,
            NUMBERS, KEY, VALUE, KEY_BLOCK, VALUE_BLOCK, TILES, TAPS, SPAN, FACTORS, PDL,
        )  # fmt: skip
    else:
        wait_for_previous(PDL)

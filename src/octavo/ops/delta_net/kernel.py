"""Two kernels: the convolution, a block of channels of a chunk each, and the delta rule, a block of a head's columns each.

A program takes the rows of its chunk in order, whatever else is in the batch, and the state stays in its registers. The tiles
follow from the shape alone, because the order of a sum over a key's numbers follows from them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import silu, wait_for_previous


@triton.jit
def _load_chunk(chunks, chunk, rows, num_states):
    """Source (-1: none), state, keep (-1: none) and the rows before it, first row, rows (0 where anything is out of range)."""
    line = chunks + chunk.to(tl.int64) * 6
    source, state = tl.load(line), tl.load(line + 1)
    keep, keep_after = tl.load(line + 2), tl.load(line + 3)
    first, count = tl.load(line + 4), tl.load(line + 5)
    known = (source >= -1) & (source < num_states) & (state >= 0) & (state < num_states)
    known &= (first >= 0) & (first <= rows) & (count >= 0)
    known &= count <= rows - first
    keeps = (keep >= 0) & (keep < num_states) & (keep_after > 0) & (keep_after <= count)
    keep_after = tl.where(keeps, keep_after, 0)
    return (
        source.to(tl.int64),
        state.to(tl.int64),
        keep.to(tl.int64),
        keep_after,
        first.to(tl.int64),
        tl.where(known, count, 0),
    )


@triton.jit
def _store_history(inputs, old, new, after, has_old, channels, inside, TAPS: tl.constexpr):
    """The TAPS - 1 inputs before row `after` of a chunk, some of them perhaps from before it, to `new`, which may be `old`."""
    # ascending: what is read of the old history lies behind what has been written
    for tap in tl.static_range(TAPS - 1):
        source = (after + (tap - (TAPS - 1))).to(tl.int64)
        now = tl.load(inputs + source * channels, mask=inside & (source >= 0), other=0.0).to(tl.float32)
        before = tl.load(old + (source + (TAPS - 1)) * channels, mask=inside & (source < 0) & has_old, other=0.0)
        tl.store(new + tap * channels, tl.where(source >= 0, now, before), mask=inside)


@triton.jit(do_not_specialize=["rows", "num_states", "state_numbers", "head_numbers", "channels"])
def convolve_kernel(
    qkv, taps, states, chunks, out, rows, num_states, state_numbers, head_numbers, channels,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, TAPS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (chunks x ceil(channels / BLOCK),). Writes (rows, channels) bf16, and the last TAPS - 1 inputs to the state."""
    wait_for_previous(PDL)
    blocks = tl.cdiv(channels, BLOCK)
    source, state, keep, keep_after, first, count = _load_chunk(chunks, tl.program_id(0) // blocks, rows, num_states)
    channel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < channels
    histories = states + head_numbers + channel
    old, has_old = histories + source * state_numbers, source >= 0
    inputs = qkv + first * channels + channel
    for start in range(0, count, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < count)[:, None] & inside[None, :]
        total = tl.zeros((ROWS, BLOCK), tl.float32)
        for tap in tl.static_range(TAPS):
            at = (row + (tap - (TAPS - 1))).to(tl.int64)[:, None]
            now = tl.load(inputs[None, :] + at * channels, mask=mask & (at >= 0), other=0.0).to(tl.float32)
            kept = mask & (at < 0) & has_old
            before = tl.load(old[None, :] + (at + (TAPS - 1)) * channels, mask=kept, other=0.0)
            weight = tl.load(taps + channel * TAPS + tap, mask=inside, other=0.0).to(tl.float32)
            total += tl.where(at >= 0, now, before) * weight[None, :]
        to = out + (first + row)[:, None] * channels + channel[None, :]
        tl.store(to, silu(total).to(tl.bfloat16), mask=mask)
    if (count > 0) & (keep_after > 0):
        _store_history(inputs, old, histories + keep * state_numbers, keep_after, has_old, channels, inside, TAPS)
    if count > 0:
        _store_history(inputs, old, histories + state * state_numbers, count, has_old, channels, inside, TAPS)


@triton.jit
def _unit(at, inside, eps):
    """The numbers at `at`, divided by their length, f32."""
    x = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    length = tl.sqrt_rn(tl.sum(x * x, 0) + eps)
    return tl.div_rn(x, tl.broadcast_to(length, x.shape))


@triton.jit
def _softplus(x):
    """log(1 + exp(x)) in f32"""
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit(do_not_specialize=["rows", "num_states", "state_numbers", "key_heads", "value_heads"])
def scan_kernel(
    convolved, write_logits, decay_logits, log_decay, step_bias, states, chunks, out,
    rows, num_states, state_numbers, key_heads, value_heads, scale, eps,
    KEY: tl.constexpr, VALUE: tl.constexpr, KEY_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (chunks x value heads x ceil(VALUE / VALUE_BLOCK),). Writes (rows, value heads x VALUE) bf16 and the states."""
    wait_for_previous(PDL)
    parts = tl.cdiv(VALUE, VALUE_BLOCK)
    part, head = tl.program_id(0) % parts, tl.program_id(0) // parts % value_heads
    chunk = tl.program_id(0) // parts // value_heads
    source, state, keep, keep_after, first, count = _load_chunk(chunks, chunk, rows, num_states)
    key, column = tl.arange(0, KEY_BLOCK), part * VALUE_BLOCK + tl.arange(0, VALUE_BLOCK)
    in_key, in_value = key < KEY, column < VALUE
    inside = in_key[:, None] & in_value[None, :]
    places = states + head.to(tl.int64) * (KEY * VALUE) + key[:, None] * VALUE + column[None, :]
    now = tl.load(places + source * state_numbers, mask=inside & (count > 0) & (source >= 0), other=0.0)
    key_head = head // (value_heads // key_heads)
    channels = 2 * key_heads * KEY + value_heads * VALUE
    speed, bias = tl.exp(tl.load(log_decay + head)), tl.load(step_bias + head)
    for step in range(count):
        row = first + step
        at = convolved + row * channels
        q = _unit(at + key_head * KEY + key, in_key, eps) * scale
        k = _unit(at + (key_heads + key_head) * KEY + key, in_key, eps)
        v = tl.load(at + 2 * key_heads * KEY + head * VALUE + column, mask=in_value, other=0.0).to(tl.float32)
        write = 1.0 / (1.0 + tl.exp(-tl.load(write_logits + row * value_heads + head)))
        decay = tl.exp(-speed * _softplus(tl.load(decay_logits + row * value_heads + head) + bias))
        now = now * decay
        known = tl.sum(now * k[:, None], 0)
        now = now + k[:, None] * ((v - known) * write)[None, :]
        result = tl.sum(now * q[:, None], 0)
        tl.store(out + (row * value_heads + head) * VALUE + column, result.to(tl.bfloat16), mask=in_value)
        if step + 1 == keep_after:
            tl.store(places + keep * state_numbers, now, mask=inside)
    tl.store(places + state * state_numbers, now, mask=inside & (count > 0))

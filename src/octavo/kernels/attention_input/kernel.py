"""One head of one token, one program and one warp: the sum of squares has one tree, whatever the batch."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.kernels.device import follow, is_finite


@triton.jit
def _norm(a, b, weight, column, inside, eps, HALF: tl.constexpr, BLOCK: tl.constexpr):
    """Both halves of a head over the root of its mean square, rounded to bf16, times the weight, rounded to bf16."""
    mean = tl.div_rn(tl.sum(a * a, 0) + tl.sum(b * b, 0), tl.full((), 2.0 * HALF, tl.float32))
    root = tl.broadcast_to(tl.sqrt_rn(mean + eps), (BLOCK,))
    a = tl.div_rn(a, root).to(tl.bfloat16).to(tl.float32)
    b = tl.div_rn(b, root).to(tl.bfloat16).to(tl.float32)
    a *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    b *= tl.load(weight + HALF + column, mask=inside, other=0.0).to(tl.float32)
    return a.to(tl.bfloat16).to(tl.float32), b.to(tl.bfloat16).to(tl.float32)


@triton.jit(do_not_specialize=["slots"])
def attention_input_kernel(
    qkv, q_weight, k_weight, cosines, sines, slot_mapping, queries, cache,
    slots, side_stride, eps, heads, kv_heads, HALF: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (T x (heads + 2 kv_heads),): queries, keys, values; a head is 2 x HALF numbers."""
    follow(PDL)
    every = heads + 2 * kv_heads
    row = (tl.program_id(0) // every).to(tl.int64)
    head = tl.program_id(0) % every
    column = tl.arange(0, BLOCK)
    inside = column < HALF
    at = qkv + (row * every + head) * (2 * HALF) + column
    a = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
    if head < heads + kv_heads:
        weight = k_weight
        if head < heads:
            weight = q_weight
        a, b = _norm(a, b, weight, column, inside, eps, HALF, BLOCK)
        cosine = tl.load(cosines + row * HALF + column, mask=inside, other=0.0)
        sine = tl.load(sines + row * HALF + column, mask=inside, other=0.0)
        turned = a * cosine - b * sine
        b = b * cosine + a * sine
        a = turned
    if head < heads:
        to = queries + (row * heads + head) * (2 * HALF) + column
        tl.store(to, a.to(tl.bfloat16), mask=inside)
        tl.store(to + HALF, b.to(tl.bfloat16), mask=inside)
        return
    slot = tl.load(slot_mapping + row)
    if (slot < 0) | (slot >= slots):
        return
    group = (head - heads) % kv_heads
    to = cache + (slot * kv_heads + group) * (2 * HALF) + column
    if head < heads + kv_heads:
        value = qkv + (row * every + heads + kv_heads + group) * (2 * HALF) + column
        first = is_finite(tl.load(value, mask=inside, other=0.0).to(tl.float32))
        second = is_finite(tl.load(value + HALF, mask=inside, other=0.0).to(tl.float32))
        whole = tl.min((first & second).to(tl.int32), 0) > 0
        a = tl.where(whole, a, float("nan"))
        b = tl.where(whole, b, float("nan"))
    else:
        to += side_stride
        a = tl.where(is_finite(a), a, 0.0)
        b = tl.where(is_finite(b), b, 0.0)
    tl.store(to, a.to(tl.bfloat16), mask=inside)
    tl.store(to + HALF, b.to(tl.bfloat16), mask=inside)

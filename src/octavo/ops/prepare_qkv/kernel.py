"""Some heads at a time, each by itself: the sum of squares has one tree, written out, whatever the tile and the batch.

Multiply-adds are written out too, so that no compiler fuses them in one tile and not in another.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import MOST_HALVINGS, is_finite, launch_next_and_wait, normed
from octavo.ops.quantize.kernel import static_codes


@triton.jit
def _sum(x, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """(ROWS,) sums of x (ROWS, BLOCK): neighbours first, then halves onto halves.

    Each step adds two numbers, so the bits do not hang on how Triton spreads a row over threads.
    """
    if BLOCK > 1:
        x = tl.sum(tl.reshape(x, (ROWS, BLOCK // 2, 2)), 2)
    for _ in tl.static_range(MOST_HALVINGS):
        if x.shape[1] > 1:
            x = tl.sum(tl.reshape(x, (ROWS, 2, x.shape[1] // 2)), 1)
    return tl.reshape(x, (ROWS,))


@triton.jit
def _turn(
    at, first, second, cosines, sines, token, column, first_of, second_of, inside, eps,
    ROWS: tl.constexpr, HALF: tl.constexpr, TURNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Both of the pairs (ROWS, BLOCK) of the heads at `at`, `normed` by the weights `first` and `second`, and rotated.

    Without weights they are only rotated; of HALF pairs the first TURNED are.
    """
    a = tl.load(at + first_of, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(at + second_of, mask=inside, other=0.0).to(tl.float32)
    turned = inside & (column < TURNED)
    angle = token[:, None] * TURNED + column
    cosine = tl.load(cosines + angle, mask=turned, other=0.0)
    sine = tl.load(sines + angle, mask=turned, other=0.0)
    if first is not None:
        mean = tl.div_rn(_sum(a * a, ROWS, BLOCK) + _sum(b * b, ROWS, BLOCK), tl.full((ROWS,), 2.0 * HALF, tl.float32))
        root = tl.sqrt_rn(mean + eps)[:, None]
        a = normed(a, root, first)
        b = normed(b, root, second)
    low, high = tl.fma(a, cosine, b * sine * -1.0), tl.fma(b, cosine, a * sine)
    if TURNED < HALF:
        low, high = tl.where(turned, low, a), tl.where(turned, high, b)
    return low, high


@triton.jit
def _store(to, first, second, first_of, second_of, mask):
    """Both of the pairs of heads, rounded to bf16."""
    tl.store(to + first_of, first.to(tl.bfloat16), mask=mask)
    tl.store(to + second_of, second.to(tl.bfloat16), mask=mask)


@triton.jit
def _store_cached(to, first, second, first_of, second_of, mask, scale):
    """`_store`, or the codes of what that stores where the cache holds codes."""
    if to.dtype.element_ty == tl.bfloat16:
        _store(to, first, second, first_of, second_of, mask)
    else:
        first, second = first.to(tl.bfloat16).to(tl.float32), second.to(tl.bfloat16).to(tl.float32)
        tl.store(to + first_of, static_codes(first, scale), mask=mask)
        tl.store(to + second_of, static_codes(second, scale), mask=mask)


@triton.jit(do_not_specialize=["tokens", "slots"])
def prepare_qkv_kernel(
    qkv, q_weight, k_weight, cosines, sines, slot_mapping, queries, cache,
    tokens, slots, side_stride, eps, k_scale, v_scale, heads, kv_heads,
    ROWS: tl.constexpr, HALF: tl.constexpr, TURNED: tl.constexpr, BLOCK: tl.constexpr, GATED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (ceil(tokens x heads / ROWS) + ceil(tokens x kv_heads / ROWS),): query heads, then keys with their values. GATED: 1 where behind
    each query head stands one of a gate, which is not read; else 0.

    A row of a tile is a head of a token: 2 x HALF numbers. They go in pairs: i and i + TURNED of the first 2 x TURNED, which
    are rotated, and likewise the halves of what is left, which is not.
    """
    apart: tl.constexpr = 1 + GATED
    every = apart * heads + 2 * kv_heads
    column = tl.arange(0, BLOCK)[None, :]
    first_of, second_of = column, column + HALF
    if TURNED < HALF:
        first_of = tl.where(column < TURNED, column, column + TURNED)
        second_of = tl.where(column < TURNED, column + TURNED, column + HALF)
    place = tl.arange(0, ROWS)
    query_tiles = tl.cdiv(tokens * heads, ROWS)
    is_query = tl.program_id(0) < query_tiles
    first_gain, second_gain = None, None
    if q_weight is not None:
        # no kernel writes weights, and they come from memory: nobody has read them since the step before. Converted behind the wait, or
        # they would be waited for first
        weight = tl.where(is_query, q_weight, k_weight)
        first_gain = tl.load(weight + first_of, mask=column < HALF, other=0.0)
        second_gain = tl.load(weight + second_of, mask=column < HALF, other=0.0)
    launch_next_and_wait(PDL)
    if is_query:
        row = tl.program_id(0) * ROWS + place
        token, head = (row // heads).to(tl.int64), row % heads
        inside = (token < tokens)[:, None] & (column < HALF)
        at = qkv + (token * every + apart * head)[:, None] * (2 * HALF)
        a, b = _turn(
            at, first_gain, second_gain, cosines, sines, token, column, first_of, second_of, inside, eps, ROWS, HALF, TURNED, BLOCK
        )  # fmt: skip
        _store(queries + row.to(tl.int64)[:, None] * (2 * HALF), a, b, first_of, second_of, inside)
        return
    row = (tl.program_id(0) - query_tiles) * ROWS + place
    token, head = (row // kv_heads).to(tl.int64), row % kv_heads
    inside = (token < tokens)[:, None] & (column < HALF)
    at = qkv + (token * every + apart * heads + head)[:, None] * (2 * HALF)
    value_at = at + kv_heads * (2 * HALF)
    first = tl.load(value_at + first_of, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(value_at + second_of, mask=inside, other=0.0).to(tl.float32)
    a, b = _turn(
        at, first_gain, second_gain, cosines, sines, token, column, first_of, second_of, inside, eps, ROWS, HALF, TURNED, BLOCK
    )  # fmt: skip
    sound = tl.min((is_finite(first) & is_finite(second)).to(tl.int32), 1)[:, None] > 0
    slot = tl.load(slot_mapping + token, mask=token < tokens, other=-1)
    inside &= ((slot >= 0) & (slot < slots))[:, None]
    to = cache + (slot * kv_heads + head)[:, None] * (2 * HALF)
    a, b = tl.where(sound, a, float("nan")), tl.where(sound, b, float("nan"))
    _store_cached(to, a, b, first_of, second_of, inside, k_scale)
    first = tl.where(is_finite(first), first, 0.0)
    second = tl.where(is_finite(second), second, 0.0)
    _store_cached(to + side_stride, first, second, first_of, second_of, inside, v_scale)

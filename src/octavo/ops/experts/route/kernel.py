"""One row, one program, one warp: the softmax sum has one tree whatever the batch."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import is_finite, load_rows_in_use, wait_for_previous


@triton.jit(do_not_specialize=["tokens"])
def route_kernel(
    logits,
    ids,
    weights,
    flags,
    rows_in_use,
    tokens,
    experts,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    SPOIL: tl.constexpr,
    PDL: tl.constexpr,
):
    """Grid (T,). BLOCK: power of two >= E; lanes past E hold -inf. Rows past those in use get id -1, weight 0, no flag."""
    wait_for_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    live = row < load_rows_in_use(rows_in_use, tokens)
    expert = tl.arange(0, BLOCK)
    inside = expert < experts
    x = tl.load(logits + row * experts + expert, mask=inside & live, other=0.0).to(tl.float32)
    flagged = tl.max((inside & ~is_finite(x)).to(tl.int32), 0) > 0
    # 0.0 is added so that -0.0 ties with 0.0
    x = tl.where(inside, tl.where(flagged, 0.0, x) + 0.0, -float("inf"))
    highest = tl.max(x, 0)
    total = tl.sum(tl.exp(x - highest), 0)

    assignment = tl.arange(0, 32)
    chosen = tl.full((32,), -1, tl.int32)
    share = tl.zeros((32,), tl.float32)
    chosen_total = 0.0
    for k in range(K):
        value, index = tl.max(x, 0, return_indices=True, return_indices_tie_break_left=True)
        p = tl.exp(value - highest)
        chosen_total += p
        chosen = tl.where(assignment == k, index.to(tl.int32), chosen)
        share = tl.where(assignment == k, p, share)
        x = tl.where(expert == index, -float("inf"), x)
    weight = share / (chosen_total if RENORMALIZE else total)
    if SPOIL:
        weight = tl.where(flagged, float("nan"), weight)
    out = row * K + assignment
    tl.store(ids + out, tl.where(live, chosen, -1), mask=assignment < K)
    tl.store(weights + out, tl.where(live, weight, 0.0), mask=assignment < K)
    tl.store(flags + row, flagged & live)

"""Rows side by side, each by itself; a program of one warp has one row, so that its sums have one tree whatever the batch."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import is_finite, load_rows_in_use, wait_for_previous

MASKED = tl.constexpr(-3.4028234663852886e38)


@triton.jit
def _keep_groups(scores, expert, experts, GROUPS: tl.constexpr, KEPT: tl.constexpr, ROWS: tl.constexpr):
    """`scores` (ROWS, BLOCK) with those outside the KEPT best groups masked; a group is as good as its two best, ties to the lower."""
    group = expert // (experts // GROUPS)
    lane = tl.arange(0, 32)[None, :]
    sums = tl.full((ROWS, 32), -float("inf"), tl.float32)
    for g in range(GROUPS):
        own = tl.where(group == g, scores, -float("inf"))
        first, index = tl.max(own, 1, return_indices=True, return_indices_tie_break_left=True)
        second = tl.max(tl.where(expert == index[:, None], -float("inf"), own), 1)
        sums = tl.where(lane == g, (first + second)[:, None], sums)
    masked = tl.where(group < GROUPS, MASKED, tl.full(scores.shape, -float("inf"), tl.float32))
    for _ in range(KEPT):
        best = tl.max(sums, 1, return_indices=True, return_indices_tie_break_left=True)[1][:, None]
        masked = tl.where(group == best, scores, masked)
        sums = tl.where(lane == best, -float("inf"), sums)
    return masked


@triton.jit
def route_rows(
    logits, bias, ids, weights, flags, row, live, tokens, scale, experts,
    ROWS: tl.constexpr, K: tl.constexpr, LANES: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr,
    BLOCK: tl.constexpr, RENORMALIZE: tl.constexpr, SPOIL: tl.constexpr,
):  # fmt: skip
    """Write ids, weights and flags of rows `row` (ROWS,), where these are below `tokens`; return ids (ROWS, LANES), -1 from K on.

    Rows that are not live get id -1, weight 0, no flag. BLOCK: power of two >= E; lanes past E hold -inf. LANES: power of two >= K.
    Without a bias a softmax weighs the experts; with one the sigmoid of each does, and with the bias added it decides.
    """
    expert = tl.arange(0, BLOCK)[None, :]
    inside = expert < experts
    x = tl.load(logits + row[:, None] * experts + expert, mask=inside & live[:, None], other=0.0).to(tl.float32)
    flagged = tl.max((inside & ~is_finite(x)).to(tl.int32), 1) > 0
    # 0.0 is added so that -0.0 ties with 0.0
    x = tl.where(inside, tl.where(flagged[:, None], 0.0, x) + 0.0, -float("inf"))
    if bias is None:
        highest = tl.max(x, 1)
        total = tl.sum(tl.exp(x - highest[:, None]), 1)
    else:
        shares = 1.0 / (1.0 + tl.exp(x * -1.0))
        x = tl.where(inside, shares + tl.load(bias + expert, mask=inside, other=0.0) + 0.0, -float("inf"))
        if GROUPS > KEPT:
            x = _keep_groups(x, expert, experts, GROUPS, KEPT, ROWS)

    lane = tl.arange(0, LANES)[None, :]
    chosen = tl.full((ROWS, LANES), -1, tl.int32)
    share = tl.zeros((ROWS, LANES), tl.float32)
    chosen_total = tl.zeros((ROWS,), tl.float32)
    for k in range(K):
        value, index = tl.max(x, 1, return_indices=True, return_indices_tie_break_left=True)
        taken = expert == index[:, None]
        p = tl.exp(value - highest) if bias is None else tl.max(tl.where(taken, shares, 0.0), 1)
        chosen_total += p
        chosen = tl.where(lane == k, index[:, None].to(tl.int32), chosen)
        share = tl.where(lane == k, p[:, None], share)
        x = tl.where(taken, -float("inf"), x)
    if bias is None:
        weight = share / (chosen_total if RENORMALIZE else total)[:, None]
    else:
        weight = (share / (chosen_total + 1e-20)[:, None] if RENORMALIZE else share) * scale
    if SPOIL:
        weight = tl.where(flagged[:, None], float("nan"), weight)
    chosen = tl.where(live[:, None], chosen, -1)
    out = row[:, None] * K + lane
    written = (row < tokens)[:, None] & (lane < K)
    tl.store(ids + out, chosen, mask=written)
    tl.store(weights + out, tl.where(live[:, None], weight, 0.0), mask=written)
    tl.store(flags + row, flagged & live, mask=row < tokens)
    return chosen


@triton.jit(do_not_specialize=["tokens", "scale"])
def route_kernel(
    logits, bias, ids, weights, flags, rows_in_use, scale, tokens, experts,
    K: tl.constexpr, LANES: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr, BLOCK: tl.constexpr,
    RENORMALIZE: tl.constexpr, SPOIL: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (T,): a row for each program. Rows past those in use get id -1, weight 0, no flag."""
    wait_for_previous(PDL)
    row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    live = row < load_rows_in_use(rows_in_use, tokens)
    route_rows(
        logits, bias, ids, weights, flags, row, live, tokens, scale, experts,
        1, K, LANES, GROUPS, KEPT, BLOCK, RENORMALIZE, SPOIL,
    )  # fmt: skip

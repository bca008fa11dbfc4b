"""One row, one program, one warp: the sums have one tree whatever the batch."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import is_finite, launch_next_and_wait, load_rows_in_use

MASKED = tl.constexpr(-3.4028234663852886e38)
TAKEN = tl.constexpr(-(2**31))
"""Below the key of every number."""


@triton.jit
def _turned(bits):
    """From the bits of f32 that are not NaN to int32 in the same order, and back: the largest of integers over a warp is one
    instruction, of f32 ten shuffles."""
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _keep_groups(scores, expert, experts, GROUPS: tl.constexpr, KEPT: tl.constexpr):
    """`scores` (BLOCK,) with those outside the KEPT best groups masked; a group is as good as its two best, ties to the lower."""
    group = expert // (experts // GROUPS)
    lane = tl.arange(0, 32)
    sums = tl.full((32,), -float("inf"), tl.float32)
    for g in range(GROUPS):
        own = tl.where(group == g, scores, -float("inf"))
        first, index = tl.max(own, 0, return_indices=True, return_indices_tie_break_left=True)
        second = tl.max(tl.where(expert == index, -float("inf"), own), 0)
        sums = tl.where(lane == g, first + second, sums)
    masked = tl.where(group < GROUPS, MASKED, -float("inf"))
    for _ in range(KEPT):
        best = tl.max(sums, 0, return_indices=True, return_indices_tie_break_left=True)[1]
        masked = tl.where(group == best, scores, masked)
        sums = tl.where(lane == best, -float("inf"), sums)
    return masked


@triton.jit
def _place(chosen, assignment, token, used, order, sorted_rows, tiles, num_tiles, K: tl.constexpr):
    """The K choices of a token by expert, each as a tile of one row, behind those of the tokens before it."""
    mine = assignment < K
    row = token * K + tl.sum(((chosen[:, None] < chosen[None, :]) & mine[:, None]).to(tl.int32), 0)
    if token == 0:
        tl.store(sorted_rows, used * K)
        tl.store(num_tiles, used * K)
    inside = mine & (token < used)
    tl.store(order + row, token * K + assignment, mask=inside)
    tl.store(tiles + row * 3, chosen, mask=inside)
    tl.store(tiles + row * 3 + 1, row, mask=inside)
    tl.store(tiles + row * 3 + 2, 1, mask=inside)


@triton.jit(do_not_specialize=["tokens", "scale"])
def route_kernel(
    logits,
    bias,
    ids,
    weights,
    flags,
    rows_in_use,
    order,
    sorted_rows,
    tiles,
    num_tiles,
    scale,
    tokens,
    experts,
    K: tl.constexpr,
    SHARED: tl.constexpr,
    GATED: tl.constexpr,
    GROUPS: tl.constexpr,
    KEPT: tl.constexpr,
    BLOCK: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    SPOIL: tl.constexpr,
    PDL: tl.constexpr,
):
    """Grid (T,). BLOCK: power of two >= E; lanes past E hold -inf. Rows past those in use get id -1, weight 0, no flag; they are read,
    so that nothing waits for their number. With `order` the permutation is written too, each choice apart.

    Without a bias a softmax weighs the experts; with one the sigmoid of each does, and with the bias added it decides. SHARED: behind the K chosen
    ones each row has expert E, weighted by one or, GATED, by the sigmoid of a logit behind the others.
    """
    choices: tl.constexpr = K + SHARED
    launch_next_and_wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    used = load_rows_in_use(rows_in_use, tokens)
    live = row < used
    expert = tl.arange(0, BLOCK)
    inside = expert < experts
    line = logits + row * (experts + GATED)
    x = tl.load(line + expert, mask=inside, other=0.0).to(tl.float32)
    flagged = tl.max((inside & ~is_finite(x)).to(tl.int32), 0) > 0
    if GATED:
        gate = tl.load(line + experts).to(tl.float32)
        flagged |= ~is_finite(gate)
        gate = tl.where(flagged, 0.0, gate)
    # 0.0 is added so that -0.0 ties with 0.0
    x = tl.where(inside, tl.where(flagged, 0.0, x) + 0.0, -float("inf"))
    if bias is None:
        highest = _turned(tl.max(_turned(x.to(tl.int32, bitcast=True)), 0)).to(tl.float32, bitcast=True)
        total = tl.sum(tl.exp(x - highest), 0)
    else:
        shares = 1.0 / (1.0 + tl.exp(x * -1.0))
        x = tl.where(inside, shares + tl.load(bias + expert, mask=inside, other=0.0) + 0.0, -float("inf"))
        if GROUPS > KEPT:
            x = _keep_groups(x, expert, experts, GROUPS, KEPT)

    assignment = tl.arange(0, 32)
    chosen = tl.full((32,), -1, tl.int32)
    share = tl.zeros((32,), tl.float32)
    chosen_total = 0.0
    key = _turned(x.to(tl.int32, bitcast=True))
    for k in range(K):
        largest = tl.max(key, 0)
        index = tl.min(tl.where(key == largest, expert, BLOCK), 0)
        if bias is None:
            p = tl.exp(_turned(largest).to(tl.float32, bitcast=True) - highest)
        else:
            p = tl.max(tl.where(expert == index, shares, 0.0), 0)
        chosen_total += p
        chosen = tl.where(assignment == k, index, chosen)
        share = tl.where(assignment == k, p, share)
        key = tl.where(expert == index, TAKEN, key)
    if bias is None:
        weight = share / (chosen_total if RENORMALIZE else total)
    else:
        weight = (share / (chosen_total + 1e-20) if RENORMALIZE else share) * scale
    if SHARED:
        chosen = tl.where(assignment == K, experts, chosen)
        weight = tl.where(assignment == K, 1.0 / (1.0 + tl.exp(gate * -1.0)) if GATED else 1.0, weight)
    if SPOIL:
        weight = tl.where(flagged, float("nan"), weight)
    out = row * choices + assignment
    tl.store(ids + out, tl.where(live, chosen, -1), mask=assignment < choices)
    tl.store(weights + out, tl.where(live, weight, 0.0), mask=assignment < choices)
    tl.store(flags + row, flagged & live)
    if order is not None:
        _place(chosen, assignment, tl.program_id(0), used, order, sorted_rows, tiles, num_tiles, choices)

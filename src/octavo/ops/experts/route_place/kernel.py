"""One program for all tokens: ids stay in its registers between the router and the sort."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import load_rows_in_use, wait_for_previous
from octavo.ops.experts.permute.kernel import count_before, place
from octavo.ops.experts.route.kernel import route_rows


@triton.jit(do_not_specialize=["tokens", "scale", "max_tiles"])
def route_place_kernel(
    logits, bias, ids, weights, flags, rows_in_use, order, offsets, tiles, num_tiles,
    scale, tokens, experts, max_tiles,
    TOKENS: tl.constexpr, K: tl.constexpr, LANES: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr,
    BLOCK: tl.constexpr, BINS: tl.constexpr, ROWS: tl.constexpr, RENORMALIZE: tl.constexpr, SPOIL: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Grid (1,). TOKENS: power of two >= T. Rows past those in use are routed and not placed."""
    wait_for_previous(PDL)
    placed = load_rows_in_use(rows_in_use, tokens)
    row = tl.arange(0, TOKENS)
    chosen = route_rows(
        logits, bias, ids, weights, flags, row, row < tokens, tokens, scale, experts,
        TOKENS, K, LANES, GROUPS, KEPT, BLOCK, RENORMALIZE, SPOIL,
    )  # fmt: skip
    lane = tl.arange(0, TOKENS * LANES)
    key = tl.reshape(chosen, (TOKENS * LANES,))
    key = tl.where((lane // LANES < placed) & (key >= 0), key, experts)
    assignment = lane // LANES * K + lane % LANES
    # a histogram would count an id as often as a thread holds it, up to four times where a token has one expert
    counts = tl.sum((key[:, None] == tl.arange(0, BINS)[None, :]).to(tl.int32), 0)
    place(
        key, assignment, count_before(key, lane, key, lane), counts, tl.zeros((BINS,), tl.int32),
        order, offsets, tiles, num_tiles, tokens * K, experts, max_tiles, BINS, ROWS,
    )  # fmt: skip

"""Router logits to experts and to the tiles of their products: few tokens in one launch."""

from __future__ import annotations

import torch
import triton

from octavo.ops.experts.permute import MIN_TILE_ROWS, Permutation, checked_permutation, count_bins, max_tiles, permute
from octavo.ops.experts.route import Routing, checked_routing, route, rule_arguments
from octavo.ops.experts.route_place.kernel import route_place_kernel
from octavo.ops.experts.rules import RoutingRule
from octavo.ops.launch import LAUNCH, LaunchDims

__all__ = ["MAX_TOKENS", "route_place"]

MAX_TOKENS = 16
"""That one program routes."""
_MIN_TOKENS = 8
"""As many as a program has warps: each goes over a row."""
_MAX_LANES = 128
"""Assignments, K of a token rounded up to a power of two, that one program places: it compares each with each."""


def route_place(
    logits: torch.Tensor,
    rule: RoutingRule,
    *,
    tile_rows: int,
    spoil: bool = False,
    rows_in_use: torch.Tensor | None = None,
    out: Routing | None = None,
    permutation: Permutation | None = None,
) -> tuple[Routing, Permutation]:
    """routing = route(logits, rule), of all rows; permutation = permute(routing.ids), of those in use. The bits are theirs.

    One launch for up to 16 tokens of up to 8 experts each, or 8 of up to 16, by a rule whose weights have the same bits in
    any order of the experts; otherwise both operations, one after the other.

    Args:
        logits: (T, E) f32 or bf16, E <= 512; read.
        rule: as for `route`.
        tile_rows: most rows of a tile, a power of two >= 16.
        spoil: whether the weights of a flagged row are NaN.
        rows_in_use: (1,) int32 on the device, the tokens that are placed; None for all T.
        out: where to write ids (T, K) int32, weights (T, K) f32 and flags (T,) bool; None allocates.
        permutation: where to place, with room for at least T x K assignments; None allocates.

    Returns:
        routing and permutation; see `route` and `permute`.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    if not _in_one_launch(len(logits), rule):
        out = route(logits, rule, spoil=spoil, out=out)
        return out, permute(out.ids, logits.shape[1], tile_rows=tile_rows, rows_in_use=rows_in_use, out=permutation)
    dims = LaunchDims()
    out = checked_routing(dims, logits, rule, out)
    tokens, experts, top_k = dims["T"], dims["E"], rule.top_k
    if rows_in_use is not None:
        dims.check("rows_in_use", rows_in_use, (1,), dtype=torch.int32)
    permutation = checked_permutation(dims, tokens * top_k, experts, tile_rows, logits.device, permutation)
    bias, scale, constants = rule_arguments(rule, experts)
    route_place_kernel[(1,)](
        logits, bias, out.ids, out.weights, out.flags, rows_in_use,
        permutation.order, permutation.offsets, permutation.tiles, permutation.num_tiles,
        scale, tokens, experts, max_tiles(dims["S"], experts, MIN_TILE_ROWS),
        TOKENS=_padded(tokens), LANES=triton.next_power_of_2(top_k), BINS=count_bins(experts), ROWS=tile_rows,
        SPOIL=spoil, num_warps=8, **constants, **LAUNCH,
    )  # fmt: skip
    return out, permutation


def _padded(tokens: int) -> int:
    return max(_MIN_TOKENS, 1 << (tokens - 1).bit_length())


def _in_one_launch(tokens: int, rule: RoutingRule) -> bool:
    lanes = _padded(tokens) * triton.next_power_of_2(rule.top_k)
    return 0 < tokens <= MAX_TOKENS and lanes <= _MAX_LANES and rule.any_order

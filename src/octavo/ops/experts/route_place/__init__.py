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
_MAX_EXPERTS = 256
"""Of which one program keeps the logits and the counts of all its tokens in registers."""
_MIN_TOKENS = 8
"""A program has a warp for each row, and so many at least: they sort, and list the tiles, together."""
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

    One launch for up to 16 tokens with up to 8 of 256 experts each, or 8 tokens with up to 16, by a plain rule; otherwise
    both operations, one after the other.

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
    if not _in_one_launch(logits.shape, rule):
        out = route(logits, rule, spoil=spoil, out=out)
        return out, permute(out.ids, logits.shape[1], tile_rows=tile_rows, rows_in_use=rows_in_use, out=permutation)
    dims = LaunchDims()
    out = checked_routing(dims, logits, rule, out)
    tokens, experts, top_k = dims["T"], dims["E"], rule.top_k
    if rows_in_use is not None:
        dims.check("rows_in_use", rows_in_use, (1,), dtype=torch.int32)
    padded = _padded(tokens)
    permutation = checked_permutation(dims, tokens * top_k, experts, tile_rows, logits.device, permutation)
    bias, scale, constants = rule_arguments(rule, experts)
    route_place_kernel[(1,)](
        logits, bias, out.ids, out.weights, out.flags, rows_in_use,
        permutation.order, permutation.offsets, permutation.tiles, permutation.num_tiles,
        scale, tokens, experts, max_tiles(dims["S"], experts, MIN_TILE_ROWS),
        TOKENS=padded, LANES=triton.next_power_of_2(top_k), BINS=count_bins(experts), ROWS=tile_rows,
        SPOIL=spoil, num_warps=padded, **constants, **LAUNCH,
    )  # fmt: skip
    return out, permutation


def _padded(tokens: int) -> int:
    return max(_MIN_TOKENS, 1 << (tokens - 1).bit_length())


def _in_one_launch(shape: torch.Size, rule: RoutingRule) -> bool:
    if len(shape) != 2 or not rule.plain:
        return False
    tokens, experts = shape
    lanes = _padded(tokens) * triton.next_power_of_2(rule.top_k)
    return 0 < tokens <= MAX_TOKENS and experts <= _MAX_EXPERTS and bool(lanes <= _MAX_LANES)

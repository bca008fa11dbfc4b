"""Router logits to experts: softmax or sigmoids, top-k, renormalisation."""

from __future__ import annotations

import dataclasses

import torch
import triton

from octavo.ops.contract import INDEX_LIMIT, check_range
from octavo.ops.experts.permute import Permutation, most_apart
from octavo.ops.experts.route.kernel import route_kernel
from octavo.ops.experts.rules import MAX_TOP_K, RoutingRule, SharedRule, SigmoidRule
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid

__all__ = ["MAX_EXPERTS", "MAX_GROUPS", "MAX_TOP_K", "Routing", "route"]

MAX_EXPERTS = 512
MAX_GROUPS = 32


@dataclasses.dataclass(frozen=True)
class Routing:
    """Holds what `route` writes: ids (T, K) int32, weights (T, K) f32, flags (T,) bool."""

    ids: torch.Tensor
    weights: torch.Tensor
    flags: torch.Tensor

    @classmethod
    def allocate(cls, tokens: int, top_k: int, device: torch.device) -> Routing:
        """Uninitialised room for `tokens` rows."""
        return cls(
            torch.empty((tokens, top_k), dtype=torch.int32, device=device),
            torch.empty((tokens, top_k), dtype=torch.float32, device=device),
            torch.empty((tokens,), dtype=torch.bool, device=device),
        )


def route(
    logits: torch.Tensor,
    rule: RoutingRule,
    *,
    spoil: bool = False,
    rows_in_use: torch.Tensor | None = None,
    out: Routing | None = None,
    permutation: Permutation | None = None,
) -> Routing:
    """ids = the experts that `rule` chooses, ties to the lower id; weights = what it weighs them by.

    For any logits the ids of a row are distinct and in [0, E), and its weights finite unless it is spoilt; with a `SharedRule` the last is E. A row with NaN or
    infinity is flagged and routed as if all its logits were zero, with `spoil` by weights of NaN. Rows from `rows_in_use` on get
    id -1, weight 0 and no flag. A row's result depends on that row alone.

    Args:
        logits: (T, L) f32 or bf16 of E experts that are chosen from, E <= 512; L is E, and one more if a shared expert has a logit; read.
        rule: chooses 1 to min(E, 32) experts, of at most 32 groups; sums of weights are in assignment order. With a shared expert K is one
            more than it chooses, at most 32.
        spoil: whether the weights of a flagged row are NaN, and with them all that is made of it.
        rows_in_use: (1,) int32 on the device, the rows in use; None for all T.
        out: where to write; None allocates.
        permutation: written, for up to `most_apart` tokens: the choices of a token by expert, one token behind the other, each as
            a tile of its own of one row. None: it is not.

    Returns:
        ids (T, K) int32, weights (T, K) f32, flags (T,) bool.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    dims = LaunchDims()
    dims.check("logits", logits, ("T", "L"), dtype=(torch.float32, torch.bfloat16))
    shared = isinstance(rule, SharedRule)
    gated = isinstance(rule, SharedRule) and rule.gated
    choosing = rule.choosing if isinstance(rule, SharedRule) else rule
    tokens, experts, top_k = dims["T"], dims["L"] - gated, rule.top_k
    check_range("logits.shape[1]", experts, 1, MAX_EXPERTS, "the kernel keeps a row in registers")
    check_range("top_k", top_k, 1 + shared, min(experts + shared, MAX_TOP_K), "choose no more experts than there are")
    check_range("T x top_k", tokens * top_k, 0, INDEX_LIMIT, "pass fewer tokens in one call")
    if rows_in_use is not None:
        dims.check("rows_in_use", rows_in_use, (1,), dtype=torch.int32)
    out = out or Routing.allocate(tokens, top_k, logits.device)
    dims.check("out.ids", out.ids, ("T", top_k), dtype=torch.int32)
    dims.check("out.weights", out.weights, ("T", top_k), dtype=torch.float32)
    dims.check("out.flags", out.flags, ("T",), dtype=torch.bool)
    places: tuple[torch.Tensor | None, ...] = (None, None, None, None)
    if permutation is not None:
        check_range("T", tokens, 0, most_apart(top_k, experts + shared), "sort the choices of more tokens by `permute`")
        permutation.check("permutation", dims, experts + shared)
        room = dims["S"]
        check_range(
            "permutation.order.shape[0]", room, tokens * top_k, INDEX_LIMIT, "allocate it for T x top_k choices"
        )
        places = permutation.order, permutation.rows_in_use, permutation.tiles, permutation.num_tiles
    bias, groups, kept, scale = None, 1, 1, 1.0
    if isinstance(choosing, SigmoidRule):
        bias, groups, kept, scale = choosing.bias, choosing.groups, choosing.kept, choosing.scale
        dims.check("rule.bias", bias, (experts,), dtype=torch.float32)
        _check_groups(experts, choosing.top_k, groups, kept)
    if tokens == 0:
        return out
    route_kernel[check_grid("route", tokens)](
        logits, bias, out.ids, out.weights, out.flags, rows_in_use, *places, scale, tokens, experts,
        K=choosing.top_k, SHARED=int(shared), GATED=int(gated), GROUPS=groups, KEPT=kept, BLOCK=max(32, triton.next_power_of_2(experts)),
        RENORMALIZE=choosing.renormalize, SPOIL=spoil, num_warps=1, **LAUNCH,
    )  # fmt: skip
    return out


def _check_groups(experts: int, top_k: int, groups: int, kept: int) -> None:
    check_range("rule.groups", groups, 1, MAX_GROUPS, "the kernel keeps a group's score in a lane")
    check_range("rule.kept", kept, 1, groups, "keep no more groups than there are")
    if groups > 1:
        check_range("experts of a group", experts // groups, 2, experts, "a group is as good as its two best")
        check_range("experts outside groups", experts % groups, 0, 0, "make all groups equally large")
        check_range("top_k", top_k, 1, experts // groups * kept, "choose no more experts than the kept groups hold")

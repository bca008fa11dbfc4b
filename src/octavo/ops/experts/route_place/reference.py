"""The router and the sort, one after the other, in plain PyTorch and Python."""

from __future__ import annotations

import torch

from octavo.ops.experts.permute.reference import permute_reference
from octavo.ops.experts.route.reference import route_reference
from octavo.ops.experts.rules import RoutingRule

Routed = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Placed = tuple[list[int], list[int], list[tuple[int, int, int]]]


def route_place_reference(
    logits: torch.Tensor, rule: RoutingRule, *, rows: int, rows_in_use: int | None = None
) -> tuple[Routed, Placed]:
    """ids, weights and flags as of `route_reference`, and order, offsets and tiles as of `permute_reference`; logits (T, E)."""
    routed = route_reference(logits, rule)
    return routed, permute_reference(routed[0], logits.shape[1], rows=rows, rows_in_use=rows_in_use)

"""Routing in float64, one row at a time."""

from __future__ import annotations

import torch

from octavo.ops.experts.rules import ChoosingRule, RoutingRule, SharedRule, SigmoidRule


def route_reference(logits: torch.Tensor, rule: RoutingRule) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids (T, K) int32, weights (T, K) f64 and flags (T,) bool of logits (T, L), any float dtype.

    A row with NaN or infinity is flagged and routed as if all its logits were zero; ties go to the lower id, and to the
    lower group. Sigmoids are rounded to float32, in which they are compared: far from zero many are equal.
    """
    ids, weights, flags = [], [], []
    for row in logits.double():
        flagged = not bool(torch.isfinite(row).all())
        row = torch.zeros_like(row) if flagged else row
        order, shares = _chosen(row, rule)
        ids.append(order)
        weights.append(shares)
        flags.append(flagged)
    shape = (len(flags), rule.top_k)
    return (
        torch.tensor(ids, dtype=torch.int32).reshape(shape),
        torch.tensor(weights, dtype=torch.float64).reshape(shape),
        torch.tensor(flags, dtype=torch.bool),
    )


def _chosen(row: torch.Tensor, rule: RoutingRule) -> tuple[list[int], list[float]]:
    """The experts of a row (L,) f64, and their weights."""
    if isinstance(rule, SharedRule):
        among = row[:-1] if rule.gated else row
        order, weights = _chosen(among, rule.choosing)
        return [*order, len(among)], [*weights, row[-1].sigmoid().item() if rule.gated else 1.0]
    scores, shares = _score(row, rule)
    order = sorted(range(len(row)), key=lambda e: (-scores[e], e))[: rule.top_k]
    total = sum(shares[e] for e in order) if rule.renormalize else 1.0
    scale = rule.scale if isinstance(rule, SigmoidRule) else 1.0
    return order, [shares[e] / total * scale if shares[e] else 0.0 for e in order]


def _score(row: torch.Tensor, rule: ChoosingRule) -> tuple[list[float], list[float]]:
    """What decides and what is weighed, of a row (E,) f64."""
    if not isinstance(rule, SigmoidRule):
        return row.tolist(), row.softmax(-1).tolist()
    shares = row.sigmoid().float()
    scores = (shares + rule.bias.cpu()).tolist()
    size = len(scores) // rule.groups
    sums = [sum(sorted(scores[g * size : (g + 1) * size])[-2:]) for g in range(rule.groups)]
    kept = sorted(range(rule.groups), key=lambda g: (-sums[g], g))[: rule.kept]
    return [score if e // size in kept else -torch.inf for e, score in enumerate(scores)], shares.tolist()

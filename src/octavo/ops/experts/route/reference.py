"""Routing in float64, one row at a time."""

from __future__ import annotations

import torch

from octavo.ops.experts.rules import RoutingRule, SigmoidRule


def route_reference(logits: torch.Tensor, rule: RoutingRule) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids (T, K) int32, weights (T, K) f64 and flags (T,) bool of logits (T, E), any float dtype.

    A row with NaN or infinity is flagged and routed as if all its logits were zero; ties go to the lower id, and to the
    lower group. Sigmoids are rounded to float32, in which they are compared: far from zero many are equal.
    """
    ids, weights, flags = [], [], []
    for row in logits.double():
        flagged = not bool(torch.isfinite(row).all())
        row = torch.zeros_like(row) if flagged else row
        scores, shares = _score(row, rule)
        order = sorted(range(len(row)), key=lambda e: (-scores[e], e))[: rule.top_k]
        total = sum(shares[e] for e in order) if rule.renormalize else 1.0
        scale = rule.scale if isinstance(rule, SigmoidRule) else 1.0
        ids.append(order)
        weights.append([shares[e] / total * scale if shares[e] else 0.0 for e in order])
        flags.append(flagged)
    shape = (len(flags), rule.top_k)
    return (
        torch.tensor(ids, dtype=torch.int32).reshape(shape),
        torch.tensor(weights, dtype=torch.float64).reshape(shape),
        torch.tensor(flags, dtype=torch.bool),
    )


def _score(row: torch.Tensor, rule: RoutingRule) -> tuple[list[float], list[float]]:
    """What decides and what is weighed, of a row (E,) f64."""
    if not isinstance(rule, SigmoidRule):
        return row.tolist(), row.softmax(-1).tolist()
    shares = row.sigmoid().float()
    scores = (shares + rule.bias.cpu()).tolist()
    size = len(scores) // rule.groups
    sums = [sum(sorted(scores[g * size : (g + 1) * size])[-2:]) for g in range(rule.groups)]
    kept = sorted(range(rule.groups), key=lambda g: (-sums[g], g))[: rule.kept]
    return [score if e // size in kept else -torch.inf for e, score in enumerate(scores)], shares.tolist()

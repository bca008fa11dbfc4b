"""Routing in float64, one row at a time."""

from __future__ import annotations

import torch


def route_reference(
    logits: torch.Tensor, top_k: int, *, renormalize: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """softmax -> top-k -> ids (T, K) int32, weights (T, K) f64, flags (T,) bool of logits (T, E), any float dtype.

    A row with NaN or infinity is flagged and routed as if all its logits were zero; ties go to the lower id.
    """
    ids, weights, flags = [], [], []
    for row in logits.double():
        flagged = not bool(torch.isfinite(row).all())
        row = torch.zeros_like(row) if flagged else row
        order = sorted(range(len(row)), key=lambda e: (-float(row[e]), e))[:top_k]
        p = torch.exp(row - row.max())
        total = p[order].sum() if renormalize else p.sum()
        ids.append(order)
        weights.append((p[order] / total).tolist())
        flags.append(flagged)
    shape = (len(flags), top_k)
    return (
        torch.tensor(ids, dtype=torch.int32).reshape(shape),
        torch.tensor(weights, dtype=torch.float64).reshape(shape),
        torch.tensor(flags, dtype=torch.bool),
    )

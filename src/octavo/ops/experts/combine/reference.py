"""The weighted sum, assignment by assignment, in float64."""

from __future__ import annotations

import torch


def combine_reference(y: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, experts: int) -> torch.Tensor:
    """out (T, H) f64 = sum over present k of weights[t, k] * y[t x K + k]; y (S, H), ids and weights (T, K)."""
    tokens, top_k = ids.shape
    by_token = y.reshape(tokens, top_k, y.shape[1])
    out = torch.zeros((tokens, y.shape[1]), dtype=torch.float64, device=y.device)
    for k in range(top_k):
        present = ((ids[:, k] >= 0) & (ids[:, k] < experts))[:, None]
        out = torch.where(present, out + weights[:, k, None].double() * by_token[:, k].double(), out)
    return out

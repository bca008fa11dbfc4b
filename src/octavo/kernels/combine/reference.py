"""The weighted sum as a loop, in float64."""

from __future__ import annotations

import torch


def combine_reference(y: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, experts: int) -> torch.Tensor:
    """out (T, H) f64 = sum over present k of weights[t, k] * y[t x K + k]; y (S, H), ids and weights (T, K)."""
    tokens, top_k = ids.shape
    out = torch.zeros((tokens, y.shape[1]), dtype=torch.float64)
    for t in range(tokens):
        for k in range(top_k):
            if 0 <= int(ids[t, k]) < experts:
                out[t] += weights[t, k].double() * y[t * top_k + k].double()
    return out

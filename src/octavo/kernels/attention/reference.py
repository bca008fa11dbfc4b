"""Attention of one request in plain float64, from contiguous keys and values."""

from __future__ import annotations

import torch


def attention_reference(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """out[t, h] = softmax over p <= P - T + t of (q[t, h] k[p, g] / sqrt(D)) v[p, g], g = h // (H / G).

    queries (T, H, D) at the last T of P positions; keys, values (P, G, D) -> (T, H, D) float64.
    """
    tokens, heads, width = queries.shape
    shared = heads // keys.shape[1]
    keys, values = (side.double().repeat_interleave(shared, dim=1) for side in (keys, values))
    out = torch.empty((tokens, heads, width), dtype=torch.float64)
    for t in range(tokens):
        seen = keys.shape[0] - tokens + t + 1
        scores = torch.einsum("hd,phd->hp", queries[t].double(), keys[:seen]) / width**0.5
        out[t] = torch.einsum("hp,phd->hd", scores.softmax(-1), values[:seen])
    return out

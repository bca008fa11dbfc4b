"""Attention in plain float64: of one request from contiguous keys and values, and of a batch from the paged cache."""

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


def paged_attention_reference(
    queries: torch.Tensor, cache: torch.Tensor, tables: torch.Tensor, chunks: list[tuple[int, int, int]]
) -> torch.Tensor:
    """softmax(q k^T / sqrt(D)) v of chunks (first row, tokens, context length) in batch order -> (T, H, D) f64.

    queries (T, H, D), cache (2, blocks, block size, G, D), tables (S, W) int32, on any device.
    """
    block_size = cache.shape[2]
    out = torch.full(queries.shape, torch.nan, dtype=torch.float64)
    for table, (row, count, context) in zip(tables.cpu().tolist(), chunks, strict=True):
        blocks = torch.tensor(table[: -(-context // block_size)], device=cache.device)
        keys, values = (side[blocks].flatten(0, 1)[:context].cpu() for side in cache)
        out[row : row + count] = attention_reference(queries[row : row + count].cpu(), keys, values)
    return out

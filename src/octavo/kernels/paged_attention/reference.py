"""Attention over the paged cache in plain float64, one query at a time."""

from __future__ import annotations

import torch

from octavo.kernels.attention.reference import attention_reference


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

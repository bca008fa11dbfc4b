"""Norm, rotation and the KV cache on a CPU, of PyTorch's operations."""

from __future__ import annotations

import torch

from octavo.ops.attention.cache import UNSCALED, KvScales, write_kv
from octavo.ops.norm.cpu import rms_norm
from octavo.ops.prepare_qkv import HeadNorms
from octavo.ops.rotary import RotaryTable, rotary
from octavo.ops.row_chunks import row_chunks


def cpu_prepare_qkv(
    qkv: torch.Tensor,
    norms: HeadNorms | None,
    rows: RotaryTable,
    cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    scales: KvScales = UNSCALED,
) -> torch.Tensor:
    """Norm and rotate queries and keys, which go together; write keys and values to the cache, return the queries.

    Args:
        qkv: (T, H + 2 G, D) bf16, D even: query heads, key heads, value heads; read.
        norms: of query and key heads; read. None: the heads are only rotated.
        rows: (T, R / 2) f32, R <= D: the table at the position of each token.
        cache: (2, blocks, block size, G, D) bf16 or fp8; written at `slot_mapping`, as by `write_kv`.
        slot_mapping: (T,) int64, distinct.
        scales: of the codes of an FP8 cache.

    Returns:
        (T, H, D) bf16, new.

    Raises:
        KernelContractError: a tensor has another dtype or size.
    """
    kv_heads = cache.shape[3]
    heads = qkv.shape[1] - 2 * kv_heads
    turned = qkv.new_empty((len(qkv), heads + kv_heads, qkv.shape[2]))
    for chunk in row_chunks(len(qkv)):
        turned[chunk] = rotary(_normed(qkv[chunk, :-kv_heads], norms, heads), rows.chunk(chunk))
    write_kv(turned[:, heads:], qkv[:, -kv_heads:], cache, slot_mapping, scales)
    return turned[:, :heads]


def _normed(heads: torch.Tensor, norms: HeadNorms | None, queries: int) -> torch.Tensor:
    """heads (T, H + G, D) bf16, of which the first `queries` are queries, each normed by its weight."""
    if norms is None:
        return heads
    keys = heads.shape[1] - queries
    weight = torch.cat((norms.queries.expand(queries, -1), norms.keys.expand(keys, -1)))
    return rms_norm(heads, weight, norms.eps)

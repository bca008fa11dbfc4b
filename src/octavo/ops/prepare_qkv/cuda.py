"""Norms and rotates queries and keys and writes the KV cache, between the projection and the attention, on CUDA."""

from __future__ import annotations

import torch
import triton

from octavo.errors import KernelContractError
from octavo.ops.activations import FP8
from octavo.ops.attention.cache import CACHE_TYPES, UNSCALED, KvScales
from octavo.ops.contract import INDEX_LIMIT, check_range
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid
from octavo.ops.prepare_qkv import HeadNorms
from octavo.ops.prepare_qkv.kernel import prepare_qkv_kernel
from octavo.ops.rotary import RotaryTable

__all__ = ["TILE_ROWS", "prepare_qkv"]

TILE_ROWS = 16
"""Heads of one program: with a warp for each four of them a thread reads and writes 16 bytes at a time."""


def prepare_qkv(
    qkv: torch.Tensor,
    norms: HeadNorms | None,
    rows: RotaryTable,
    cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    scales: KvScales = UNSCALED,
    *,
    gated: bool = False,
    tile_rows: int = TILE_ROWS,
) -> torch.Tensor:
    """Norm and rotate queries and keys, write keys and values to the cache, return the queries.

    What `rms_norm` and `rotary` compute, rounded where they round. Where a head's value is not finite the cache gets
    zero for it and NaN for the key: a query that sees it scores NaN, and one that does not reads a number. A cache in FP8
    gets the codes of what one in bf16 gets (`quantize.rule`). Slots out of range are dropped. A row's bits depend on that
    row alone.

    Args:
        qkv: (T, H + 2 G, D) bf16, D even: query heads, key heads, value heads; read. Gated: (T, 2 H + 2 G, D).
        norms: of query and key heads; read. None: the heads are only rotated.
        rows: (T, R / 2) f32, R <= D: the table at the position of each token; a head's numbers from R on are not turned.
        cache: (2, blocks, block size, G, D) bf16 or fp8; written at `slot_mapping`.
        slot_mapping: (T,) int64, distinct.
        scales: of the codes.
        gated: whether behind each query head stands a gate, which is not read.
        tile_rows: heads of one program, a power of two; any, the bits are the same.

    Returns:
        (T, H, D) bf16, new.

    Raises:
        KernelContractError: an argument has another shape, dtype or device.
    """
    dims = LaunchDims()
    dims.check("cache", cache, (2, "B", "block size", "G", "D"), dtype=CACHE_TYPES)
    dims.check("qkv", qkv, ("T", "heads", "D"), dtype=torch.bfloat16)
    if norms is not None:
        dims.check("norms.queries", norms.queries, ("D",), dtype=(torch.bfloat16, torch.float32))
        dims.check("norms.keys", norms.keys, ("D",), dtype=norms.queries.dtype)
    for name, table in (("rows.cos", rows.cos), ("rows.sin", rows.sin)):
        dims.check(name, table, ("T", "R / 2"), dtype=torch.float32)
    check_range("rows.cos.shape[1]", dims["R / 2"], 1, max(1, dims["D"] // 2), "pass the table of this head's width")
    dims.check("slot_mapping", slot_mapping, ("T",), dtype=torch.int64)
    tokens, every, kv_heads, width = dims["T"], dims["heads"], dims["G"], dims["D"]
    heads, odd = divmod(every - 2 * kv_heads, 2 if gated else 1)
    check_range("T x heads", tokens * every, 0, INDEX_LIMIT - tile_rows, "pass fewer tokens in one call")
    if width % 2 or odd or heads < 1:
        raise KernelContractError("qkv", "queries beside keys and values, heads of even width", str(tuple(qkv.shape)))
    q_weight, k_weight, eps = (None, None, 0.0) if norms is None else (norms.queries, norms.keys, norms.eps)
    k_scale, v_scale = (scales.keys, scales.values) if cache.dtype == FP8 else (None, None)
    queries = qkv.new_empty((tokens, heads, width))
    if tokens:
        tiles = triton.cdiv(tokens * heads, tile_rows) + triton.cdiv(tokens * kv_heads, tile_rows)
        prepare_qkv_kernel[check_grid("prepare_qkv", tiles)](
            qkv, q_weight, k_weight, rows.cos, rows.sin, slot_mapping, queries, cache,
            tokens, dims["B"] * dims["block size"], cache.stride(0), eps, k_scale, v_scale, heads, kv_heads,
            ROWS=tile_rows, HALF=width // 2, TURNED=dims["R / 2"], BLOCK=triton.next_power_of_2(width // 2), GATED=int(gated),
            num_warps=min(8, max(1, tile_rows // 4)), **LAUNCH,
        )  # fmt: skip
    return queries

"""Launches the persistent kernel."""

from __future__ import annotations

import torch
from triton.experimental.gluon.language import NVMMASharedLayout
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from octavo.ops.attention.persistent_kernel import persistent_attend_kernel
from octavo.ops.attention.persistent_softmax import WIDTH
from octavo.ops.attention.plan import KV_TILE, LINE_ROWS, ROWS, SPLIT, PagedPlan
from octavo.ops.bulk_copy import takes_bulk_copies
from octavo.ops.contract import INDEX_LIMIT
from octavo.ops.launch import LAUNCH
from octavo.ops.persistent import multiprocessors, runs_persistent_kernels

CACHE_LAYOUT = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
QUERIES_LAYOUT = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=3)
"""Of operands in shared memory: what wgmma reads without bank conflicts."""


def takes_persistent_kernel(queries: torch.Tensor, cache: torch.Tensor, plan: PagedPlan) -> bool:
    """Whether `persistent_attend_kernel` can attend for queries (T, H, D), cache (2, blocks, block size, G, D) and plan of `paged_attention`."""
    slots = 2 * cache.shape[1] * plan.block_size
    return (
        runs_persistent_kernels(queries.device)
        and cache.dtype is torch.bfloat16
        and cache.shape[-1] == WIDTH.value
        and plan.block_size % KV_TILE == 0
        and ROWS % plan.shared == 0
        and 0 < slots <= INDEX_LIMIT - KV_TILE
        and len(queries) <= INDEX_LIMIT - LINE_ROWS
        and takes_bulk_copies(queries, cache)
    )


def launch_persistent(
    queries: torch.Tensor,
    cache: torch.Tensor,
    plan: PagedPlan,
    split_stats: torch.Tensor,
    split_accs: torch.Tensor,
    out: torch.Tensor,
    *,
    scale: float,
) -> None:
    """Attend for the lines of `plan.work`, of which there is one at least, with arguments that `paged_attention` has checked.

    Args:
        queries: (T, H, D) bf16; read.
        cache: (2, blocks, block size, G, D) bf16; read.
        plan: of this batch.
        split_stats: (P, H, 2) f32; written for lines of one split among several.
        split_accs: (P, H, D) f32; likewise.
        out: (T, H, D) bf16; written for the other lines.
        scale: of scores, in powers of two.
    """
    kv_heads = cache.shape[3]
    tokens = ROWS // plan.shared
    q_tiles = TensorDescriptor.from_tensor(queries, [tokens, plan.shared, WIDTH.value], QUERIES_LAYOUT)
    slots = cache.view(-1, kv_heads * WIDTH.value)
    kv_tiles = TensorDescriptor.from_tensor(slots, [KV_TILE, WIDTH.value], CACHE_LAYOUT)
    programs = min(len(plan.work) * kv_heads, multiprocessors(queries.device))
    persistent_attend_kernel[(programs,)](
        q_tiles, kv_tiles, plan.tables, plan.work, plan.lines_in_use, out, split_stats, split_accs,
        len(queries), *plan.tables.shape, cache.shape[1], len(split_stats), len(plan.work), scale,
        KV_HEADS=kv_heads, SHARED=plan.shared, BLOCK_SIZE=plan.block_size, SPLIT=SPLIT, num_warps=4, **LAUNCH,
    )  # fmt: skip

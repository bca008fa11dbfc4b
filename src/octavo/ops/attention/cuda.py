"""Causal attention over a paged KV cache: one kernel for prefill, chunked prefill and decode."""

from __future__ import annotations

import dataclasses
import math

import torch

from octavo.ops.activations import FP8
from octavo.ops.attention.cache import CACHE_TYPES, UNSCALED, KvScales
from octavo.ops.attention.kernel import attend_kernel, merge_kernel
from octavo.ops.attention.persistent import launch_persistent, takes_persistent_kernel
from octavo.ops.attention.plan import (
    FEW_ROWS,
    KV_TILE,
    LINE_ROWS,
    MAX_SPLIT_RESULTS,
    ROWS,
    SPLIT,
    WORK,
    PagedPlan,
    plan_paged_attention,
)
from octavo.ops.bulk_copy import empty_with_room
from octavo.ops.contract import check_range
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid

__all__ = [
    "KV_TILE",
    "MAX_SPLIT_RESULTS",
    "ROWS",
    "SPLIT",
    "PagedPlan",
    "SplitResults",
    "paged_attention",
    "plan_paged_attention",
]

RESIDENT_MERGES = 528
"""Programs of the merge that an H200 runs at a time; all it gets where only the device knows how much there is to do."""
MERGED_HEADS = 4
"""Heads of a row that one program merges: mostly there is nothing to merge, and then fewer programs end sooner."""


@dataclasses.dataclass(frozen=True)
class QueryTile:
    """How tiles of queries of one size are computed; the bits are those of any other way."""

    rows: int
    per_line: int
    """Tiles of a line of work."""
    keys_tall: bool
    warps: int
    wide_warps: int
    """For heads of more than 128 numbers, whose sums of many rows one warp group's registers do not hold."""
    stages: int
    """Tiles of keys in flight."""
    wide_stages: int
    """For heads of more than 128 numbers."""
    resident: int
    """Programs that an H200 runs at a time; all it gets where only the device knows how much there is to do."""

    def changed(self, stages: int | None, warps: int | None) -> QueryTile:
        """The same with other `stages` and `warps`, None for its own."""
        own = dataclasses.replace(self, warps=warps or self.warps, wide_warps=warps or self.wide_warps)
        return dataclasses.replace(own, stages=stages or self.stages, wide_stages=stages or self.wide_stages)


LARGE = QueryTile(
    rows=ROWS, per_line=LINE_ROWS // ROWS, keys_tall=False, warps=4, wide_warps=8, stages=3, wide_stages=2, resident=264
)
SMALL = QueryTile(
    rows=FEW_ROWS, per_line=1, keys_tall=True, warps=4, wide_warps=4, stages=3, wide_stages=3, resident=264
)


def _columns(width: int) -> int:
    """Columns of a tile: a power of two, and no fewer than a warp group multiplies."""
    return max(64, 1 << (width - 1).bit_length())


@dataclasses.dataclass(frozen=True)
class SplitResults:
    """Device memory of `paged_attention` between its two kernels; one serves any number of layers, one call at a time."""

    stats: torch.Tensor
    """(P, H, 2) f32: the maximum and the sum of each row's split."""
    acc: torch.Tensor
    """(P, H, D) f32: its weighted values."""

    @classmethod
    def allocate(cls, heads: int, width: int, device: torch.device, *, count: int = MAX_SPLIT_RESULTS) -> SplitResults:
        """Uninitialised room for `count` rows times splits of `heads` query heads of `width` numbers."""
        stats = torch.empty((count, heads, 2), dtype=torch.float32, device=device)
        return cls(stats, torch.empty((count, heads, width), dtype=torch.float32, device=device))


def paged_attention(
    queries: torch.Tensor,
    cache: torch.Tensor,
    plan: PagedPlan,
    split_results: SplitResults,
    scales: KvScales = UNSCALED,
    *,
    out: torch.Tensor | None = None,
    stages: int | None = None,
    warps: int | None = None,
) -> torch.Tensor:
    """out = softmax(q k^T / sqrt(D)) v over the keys at or before each query's position.

    A row's bits depend on its query and the keys and values it sees: not on the batch, the chunk it came in, the
    blocks, or what unused slots hold. NaN that a query sees makes its row NaN, and no other; so does a context whose
    blocks are missing or out of range, for the tokens that share a query tile.

    Args:
        queries: (T, H, D) bf16; read.
        cache: (2, blocks, block size, G, D) bf16 or fp8, written by `prepare_qkv` for these tokens too; read. Its values are
            finite.
        plan: of this batch; H = G times its `shared`; T at least its rows.
        split_results: room for the plan's `num_split_results`; overwritten.
        scales: as keys and values were written.
        out: (T, H, D) bf16; the rows of the plan's chunks are written. None allocates.
        stages: depth of the pipeline of loads, any; the bits are the same. None: that of the tile.
        warps: of a program, 4 or 8; the bits are the same. None: as the tile and the width have it. Where both are None, the
            persistent kernel attends for many rows where it can; the bits are the same.

    Returns:
        out

    Raises:
        KernelContractError: an argument has another shape, dtype or device.
    """
    dims = LaunchDims()
    dims.check("cache", cache, (2, "B", plan.block_size, "G", "D"), dtype=CACHE_TYPES)
    kv_heads, width = dims["G"], dims["D"]
    heads = kv_heads * plan.shared
    dims.check("queries", queries, ("T", heads, "D"), dtype=torch.bfloat16)
    dims.check("plan.tables", plan.tables, ("S", "W"), dtype=torch.int32)
    dims.check("plan.work", plan.work, ("N", WORK), dtype=torch.int32)
    dims.check("plan.small_work", plan.small_work, ("M", WORK), dtype=torch.int32)
    dims.check("plan.merges", plan.merges, ("F", 4), dtype=torch.int32)
    dims.check("split_results.acc", split_results.acc, ("P", heads, "D"), dtype=torch.float32)
    dims.check("split_results.stats", split_results.stats, ("P", heads, 2), dtype=torch.float32)
    check_range(
        "plan.num_split_results", plan.num_split_results, 0, dims["P"], "plan with max_split_results of this room"
    )
    out = empty_with_room(queries.shape, queries.dtype, queries.device) if out is None else out
    dims.check("out", out, ("T", heads, "D"), dtype=torch.bfloat16)
    scale, v_scale = math.log2(math.e) / math.sqrt(width), None
    if cache.dtype == FP8:
        scale, v_scale = scale * scales.keys, scales.values
    is_chosen = stages is None and warps is None
    if is_chosen and len(plan.work) and takes_persistent_kernel(queries, cache, plan):
        launch_persistent(queries, cache, plan, split_results.stats, split_results.acc, out, scale=scale)
    elif len(plan.work):
        _attend(LARGE.changed(stages, warps), queries, cache, plan, split_results, out, scale, v_scale)
    if len(plan.small_work):
        _attend(SMALL.changed(stages, warps), queries, cache, plan, split_results, out, scale, v_scale)
    if dims["F"]:
        programs = plan.programs(dims["F"] * -(-heads // MERGED_HEADS), RESIDENT_MERGES)
        merge_kernel[check_grid("paged_attention", programs)](
            split_results.stats, split_results.acc, plan.merges, None if plan.lines_in_use is None else plan.lines_in_use[2:], out,
            dims["T"], dims["P"], dims["F"], heads, scale, v_scale,
            WIDTH=width, HEAD=_columns(width), HEADS=MERGED_HEADS, num_warps=4, **LAUNCH,
        )  # fmt: skip
    return out


def _attend(
    tile: QueryTile,
    queries: torch.Tensor,
    cache: torch.Tensor,
    plan: PagedPlan,
    split_results: SplitResults,
    out: torch.Tensor,
    scale: float,
    v_scale: float | None,
) -> None:
    """Launch `attend_kernel` for the plan's lines of `tile`, of which there is one at least, with arguments that are checked."""
    is_small, is_wide = tile.keys_tall, cache.shape[-1] > 128
    lines = plan.small_work if is_small else plan.work
    in_use = None if plan.lines_in_use is None else plan.lines_in_use[int(is_small) :]
    _, blocks, block_size, kv_heads, width = cache.shape
    programs = plan.programs(len(lines) * tile.per_line * kv_heads, tile.resident)
    overlaps = is_small and len(plan.work) > 0
    attend_kernel[check_grid("paged_attention", programs)](
        queries, cache, plan.tables, lines, in_use, out, split_results.stats, split_results.acc,
        len(queries), *plan.tables.shape, blocks, len(split_results.stats), len(lines), cache.stride(0), scale, v_scale, int(overlaps),
        KV_HEADS=kv_heads, SHARED=plan.shared, WIDTH=width, BLOCK_SIZE=block_size, HEAD=_columns(width), KV_TILE=KV_TILE,
        SPLIT=SPLIT, TILES=tile.per_line, ROWS=tile.rows, KEYS_TALL=tile.keys_tall,
        num_warps=tile.wide_warps if is_wide else tile.warps,
        num_stages=tile.wide_stages if is_wide else tile.stages, **LAUNCH,
    )  # fmt: skip

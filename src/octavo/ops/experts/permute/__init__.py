"""Assignments sorted by expert, and the list of tiles of the grouped GEMMs."""

from __future__ import annotations

import dataclasses

import torch
import triton

from octavo.ops.contract import INDEX_LIMIT, check_range
from octavo.ops.experts.permute.kernel import count_kernel, place_few_kernel, place_kernel, scan_kernel
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid

__all__ = ["MAX_EXPERTS", "MIN_TILE_ROWS", "Permutation", "max_tiles", "most_apart", "permute"]

MAX_EXPERTS = 513
"""As many as a row may choose from, and one that all rows share."""
MIN_TILE_ROWS = 16
_MOST_APART = 4
"""Tokens. Programs of the first product for 32 choices run all at once on an H200; of more, those of one expert may not."""
_BLOCK_ASSIGNMENTS = 256
_FEW_ASSIGNMENTS = 2048
_FEW_AT_A_TIME = 8
"""Of few assignments, that a program places."""
_LISTERS = 4
"""Programs that write the list of tiles of few assignments."""
_CHUNK = 32
_SCAN_WIDTH = 16
_SCAN_HEIGHT = 256


def max_tiles(assignments: int, experts: int, rows: int) -> int:
    """Most tiles of `rows` rows that so many assignments can need: each expert in use ends in at most one partial tile."""
    return assignments // rows + min(assignments, experts)


def most_apart(top_k: int, experts: int) -> int:
    """Most tokens whose choices of `top_k` of so many experts need no sorting.

    Hardly two of them are of one expert, whose weights are then read twice at the same time: a tile for each choice costs less than
    the launch that would join them.
    """
    return max(1, min(_MOST_APART, experts // (4 * top_k)))


def _bins(experts: int) -> int:
    return max(_SCAN_WIDTH, 1 << experts.bit_length())


@dataclasses.dataclass(frozen=True)
class Permutation:
    """Holds what `permute` writes, and its scratch memory; S = T x K choices, numbered t x K + k.

    Allocated for S assignments it serves every smaller number too.
    """

    order: torch.Tensor
    """(S,) int32: the assignment at each sorted row; rows from `rows_in_use` on are never written."""
    rows_in_use: torch.Tensor
    """(1,) int32: sorted rows."""
    tiles: torch.Tensor
    """(max_tiles, 3) int32: expert, first row, rows (at most the tile's); entries from num_tiles on are not written."""
    num_tiles: torch.Tensor
    """(1,) int32"""
    block_counts: torch.Tensor
    """(blocks, bins) int32 scratch"""
    totals: torch.Tensor
    """(bins,) int32 scratch"""

    @classmethod
    def allocate(cls, assignments: int, experts: int, device: torch.device) -> Permutation:
        """Room for `assignments` assignments at any tile height from 16 rows up."""

        def empty(*shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=torch.int32, device=device)

        bins = _bins(experts)
        tiles = max_tiles(assignments, experts, MIN_TILE_ROWS)
        return cls(
            empty(assignments),
            empty(1),
            empty(tiles, 3).zero_(),  # entries not in use are loaded, though not followed
            empty(1),
            empty(-(-assignments // _BLOCK_ASSIGNMENTS), bins),
            empty(bins),
        )

    @property
    def assignments(self) -> int:
        """S, the assignments there is room for."""
        return self.order.shape[0]

    def check(self, name: str, dims: LaunchDims, experts: int) -> None:
        """Raise unless this is of `experts` experts; binds S.

        Raises:
            KernelContractError: a tensor has another shape, dtype or device.
        """
        dims.check(f"{name}.order", self.order, ("S",), dtype=torch.int32)
        dims.check(f"{name}.rows_in_use", self.rows_in_use, (1,), dtype=torch.int32)
        dims.check(f"{name}.tiles", self.tiles, (max_tiles(dims["S"], experts, MIN_TILE_ROWS), 3), dtype=torch.int32)
        dims.check(f"{name}.num_tiles", self.num_tiles, (1,), dtype=torch.int32)


def permute(
    ids: torch.Tensor,
    experts: int,
    *,
    tile_rows: int,
    rows_in_use: torch.Tensor | None = None,
    out: Permutation | None = None,
) -> Permutation:
    """order = assignments t x K + k sorted by ids[t, k], those of an expert in order; and tiles of `tile_rows` sorted rows.

    An assignment is absent, and dropped, when its id is negative or >= experts or its token is at `rows_in_use` or later.
    Integer arithmetic only; the result is a function of ids. At most three launches, no host synchronisation.

    Args:
        ids: (T, K) int32, any values; read.
        experts: E, 1 to 513.
        tile_rows: most rows of a tile, a power of two >= 16.
        rows_in_use: (1,) int32 on the device, the tokens in use; None for all T.
        out: where to write, with room for at least T x K assignments; None allocates.

    Returns:
        order, rows_in_use, tiles and num_tiles; see Permutation.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    dims = LaunchDims()
    dims.check("ids", ids, ("T", "K"), dtype=torch.int32)
    tokens, top_k = dims["T"], dims["K"]
    assignments = tokens * top_k
    check_range("experts", experts, 1, MAX_EXPERTS, "the kernels keep one counter per expert in registers")
    check_range("T x K", assignments, 0, INDEX_LIMIT - _BLOCK_ASSIGNMENTS, "pass fewer tokens in one call")
    check_range("tile_rows", tile_rows, MIN_TILE_ROWS, 1024, "use a tile of the table")
    if rows_in_use is not None:
        dims.check("rows_in_use", rows_in_use, (1,), dtype=torch.int32)
    out = out or Permutation.allocate(assignments, experts, ids.device)
    bins = _bins(experts)
    out.check("out", dims, experts)
    check_range(
        "out.order.shape[0]",
        dims["S"],
        assignments,
        INDEX_LIMIT,
        "allocate the permutation for the most assignments of any call",
    )
    dims.check("out.block_counts", out.block_counts, (-(-dims["S"] // _BLOCK_ASSIGNMENTS), bins), dtype=torch.int32)
    dims.check("out.totals", out.totals, (bins,), dtype=torch.int32)
    if assignments == 0:
        out.rows_in_use.zero_()
        out.num_tiles.zero_()
        return out
    most_tiles = max_tiles(dims["S"], experts, MIN_TILE_ROWS)
    if assignments <= _FEW_ASSIGNMENTS:
        place_few_kernel[(_LISTERS + -(-assignments // _FEW_AT_A_TIME),)](
            ids, rows_in_use, out.order, out.rows_in_use, out.tiles, out.num_tiles,
            tokens, top_k, experts, most_tiles,
            ALL=max(32, triton.next_power_of_2(assignments)), WIDTH=_FEW_AT_A_TIME, LISTERS=_LISTERS, BINS=bins, ROWS=tile_rows, num_warps=8, **LAUNCH,
        )  # fmt: skip
        return out
    blocks = -(-assignments // _BLOCK_ASSIGNMENTS)
    grid = check_grid("permute", blocks)
    count_kernel[grid](
        ids, rows_in_use, out.block_counts, tokens, top_k, experts, BLOCK=_BLOCK_ASSIGNMENTS, BINS=bins, **LAUNCH
    )
    scan_kernel[(bins // _SCAN_WIDTH,)](
        out.block_counts, out.totals, blocks, BINS=bins, WIDTH=_SCAN_WIDTH, HEIGHT=_SCAN_HEIGHT, **LAUNCH
    )
    place_kernel[grid](
        ids, rows_in_use, out.block_counts, out.totals, out.order, out.rows_in_use, out.tiles, out.num_tiles,
        tokens, top_k, experts, most_tiles,
        BLOCK=_BLOCK_ASSIGNMENTS, CHUNK=_CHUNK, BINS=bins, ROWS=tile_rows, num_warps=8, **LAUNCH,
    )  # fmt: skip
    return out

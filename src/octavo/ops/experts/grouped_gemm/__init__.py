"""One matrix product per expert over the rows routed to it, at any number of rows."""

from __future__ import annotations

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from octavo.errors import KernelContractError
from octavo.ops.activations import BLOCK, FP8, Activations, GroupScaled, blocks
from octavo.ops.bulk_copy import descriptor
from octavo.ops.contract import INDEX_LIMIT, Dims, check_range
from octavo.ops.experts.grouped_gemm.choice import Tiles, choose_tiles, rounds
from octavo.ops.experts.grouped_gemm.kernel import grouped_gemm_kernel
from octavo.ops.experts.grouped_gemm.persistent import launch_persistent
from octavo.ops.experts.grouped_gemm.persistent_tile import PersistentTile
from octavo.ops.experts.grouped_gemm.tile import Tile
from octavo.ops.experts.permute import Permutation, max_tiles
from octavo.ops.formats import Weights
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid

__all__ = [
    "PersistentTile",
    "Tile",
    "Tiles",
    "choose_tiles",
    "grouped_gemm",
    "grouped_gemm_swiglu",
    "grouped_gemm_swiglu_quantize",
]

STEP = {torch.float8_e4m3fn: 128, torch.bfloat16: 64}
"""Columns of K per step, by weight dtype. With scales per block they are part of the order of summation; else a tile may take
several at a time, as wgmma adds its 16 or 32 columns to one accumulator in the same order (tests on the device compare)."""

TILES_PER_BAND = 4
"""Row tiles whose programs run next to each other."""


def grouped_gemm_swiglu(
    x: Activations,
    w: Weights,
    permutation: Permutation,
    *,
    top_k: int,
    tile: Tile | PersistentTile,
    out: torch.Tensor,
    assignments: int,
) -> torch.Tensor:
    """out[r] = silu(g) * u with (g, u) = w[e] @ x[order[r] // top_k], for each sorted row r of expert e.

    The bits of a row depend on that row and the weights, not on the tile or on other rows.

    Args:
        x: (T, H) in the format that `w` asks for; read at the tokens of the permutation only.
        w: (E, 2I, H), gate rows first; read.
        permutation: what `permute` wrote for these tokens with tile_rows = tile.rows, or `route` for few.
        top_k: assignments per token.
        tile: sizes of one program's work; no PersistentTile, which gives `grouped_gemm_swiglu_quantize` alone.
        out: (S, I) bf16 with S = permutation.assignments; rows in use are written, others left alone.
        assignments: most assignments the permutation can hold in this call, at most S: bounds the tiles that are looked at.

    Returns:
        out

    Raises:
        KernelContractError: an argument has another type, shape, dtype, device or range, or the tile cannot run.
    """
    _launch(x, w, permutation, gated=True, top_k=top_k, tile=tile, out=out, assignments=assignments)
    return out


def grouped_gemm_swiglu_quantize(
    x: Activations,
    w: Weights,
    permutation: Permutation,
    *,
    top_k: int,
    tile: Tile | PersistentTile,
    out: GroupScaled,
    assignments: int,
) -> GroupScaled:
    """`quantize_groups` of what `grouped_gemm_swiglu` gives, with its bits, in one kernel.

    Args:
        x: (T, H) in the format that `w` asks for; read at the tokens of the permutation only.
        w: (E, 2I, H) with scales per block, gate rows first; read.
        permutation: what `permute` wrote for these tokens with tile_rows = tile.rows, or `route` for few.
        top_k: assignments per token.
        tile: of 128 columns; a PersistentTile only where `check` of it says that it can run.
        out: data (S, I) fp8 and scale (S, I / 128) f32 with S = permutation.assignments; rows in use are written, others left alone.
        assignments: most assignments the permutation can hold in this call, at most S: bounds the tiles that are looked at.

    Returns:
        out

    Raises:
        KernelContractError: an argument has another type, shape, dtype, device or range, or the tile cannot run.
    """
    if isinstance(tile, Tile) and not rounds(tile, w):
        raise KernelContractError(
            "tile",
            f"one of {BLOCK} columns, and w with scales per block",
            f"{tile} and {type(w).__name__} (use grouped_gemm_swiglu and quantize)",
        )
    _launch(x, w, permutation, gated=True, top_k=top_k, tile=tile, out=out, assignments=assignments)
    return out


def grouped_gemm(
    x: Activations,
    w: Weights,
    permutation: Permutation,
    *,
    tile: Tile | PersistentTile,
    out: torch.Tensor,
    assignments: int,
) -> torch.Tensor:
    """out[order[r]] = w[e] @ x[r] for each sorted row r of expert e.

    The bits of a row depend on that row and the weights, not on the tile or on other rows.

    Args:
        x: (R, I) sorted rows in the format that `w` asks for, R >= assignments; read at the rows in use only.
        w: (E, H, I); read.
        permutation: what `permute` wrote with tile_rows = tile.rows, or `route` for few tokens.
        tile: sizes of one program's work; a PersistentTile only where `check` of it says that it can run.
        out: (S, H) bf16, S = permutation.assignments, in assignment order; assignments in use are written, absent ones left alone.
        assignments: most assignments the permutation can hold in this call, at most S: bounds the tiles that are looked at.

    Returns:
        out

    Raises:
        KernelContractError: an argument has another type, shape, dtype, device or range, or the tile cannot run.
    """
    _launch(x, w, permutation, gated=False, top_k=1, tile=tile, out=out, assignments=assignments)
    return out


def _check(
    x: Activations,
    w: Weights,
    permutation: Permutation,
    gated: bool,
    out: torch.Tensor | GroupScaled,
    assignments: int,
    tile: Tile | PersistentTile,
) -> Dims:
    if type(x) is not w.activations:
        expected = f"{w.activations.__name__} for {type(w).__name__}"
        raise KernelContractError(
            "x", expected, f"{type(x).__name__} (quantise the activations in the weights' format)"
        )
    parts = 2 if gated else 1
    dims = LaunchDims()
    w.check("w", dims, parts)
    if w.data.shape[1] % parts:
        raise KernelContractError(
            "w.data.shape[1]", "2 x I rows, gate then up", f"{w.data.shape[1]} (stack gate and up)"
        )
    x.check("x", dims, "R", "K")
    permutation.check("permutation", dims, dims["E"])
    if isinstance(out, GroupScaled):
        dims.check("out.data", out.data, ("S", w.data.shape[1] // parts), dtype=FP8)
        dims.check("out.scale", out.scale, ("S", blocks(w.data.shape[1] // parts)), dtype=torch.float32)
    else:
        dims.check("out", out, ("S", w.data.shape[1] // parts), dtype=torch.bfloat16)
    check_range(
        "assignments", assignments, 0, dims["S"], "allocate the permutation for the most assignments of any call"
    )
    if not gated:
        check_range("rows of x", dims["R"], assignments, INDEX_LIMIT, "pass one row per assignment")
    if isinstance(tile, PersistentTile):
        if gated and not isinstance(out, GroupScaled):
            raise KernelContractError("tile", "a Tile", f"{tile}, which rounds (use grouped_gemm_swiglu_quantize)")
        tile.check(type(w).__name__, w.data.shape[1] // parts, dims["K"], x.data.device, gated=gated)
    else:
        _check_tile(tile, w, dims["K"], gated)
    return dims


def _check_tile(tile: Tile, w: Weights, width: int, gated: bool) -> None:
    tile.check(gated=gated, step_bytes=STEP[w.data.dtype] * w.data.element_size())
    if w.blockwise:
        check_range("tile.cols", tile.cols, 64, BLOCK, "a program reads one scale of a weight block per step")
        check_range("tile.step_factor", tile.step_factor, 1, 1, "a step is a block of weights")
        check_range("tile.early", tile.early, 0, 0, "a step is a block of weights")
    check_range("K", width, tile.early * STEP[w.data.dtype] // 2 + 1, INDEX_LIMIT, "load less early")


def _launch(
    x: Activations,
    w: Weights,
    permutation: Permutation,
    *,
    gated: bool,
    top_k: int,
    tile: Tile | PersistentTile,
    out: torch.Tensor | GroupScaled,
    assignments: int,
) -> None:
    dims = _check(x, w, permutation, gated, out, assignments, tile)
    if assignments == 0 or dims["R"] == 0:
        return
    if isinstance(tile, PersistentTile):
        launch_persistent(x, w, permutation, top_k=top_k, tile=tile, out=out, assignments=assignments)
        return
    y, y_scale = (out.data, out.scale) if isinstance(out, GroupScaled) else (out, None)
    columns = y.shape[1]
    bands = -(-max_tiles(assignments, dims["E"], tile.rows) // TILES_PER_BAND)
    programs = bands * TILES_PER_BAND * -(-columns // tile.cols)
    step, early = tile.step_factor * STEP[w.data.dtype], tile.early * STEP[w.data.dtype]
    x_tiles: TensorDescriptor | None = None
    x_early: TensorDescriptor | None = None
    w_early: TensorDescriptor | None = None
    weights: torch.Tensor | TensorDescriptor = w.data
    if tile.tma:
        weights = descriptor("w.data", w.data.view(-1, dims["K"]), tile.cols, step)
        x_tiles = None if gated else descriptor("x.data", x.data, tile.rows, step)
    if early:
        w_early = descriptor("w.data", w.data.view(-1, dims["K"]), tile.cols, early)
        x_early = descriptor("x.data", x.data, tile.rows, early)
    grouped_gemm_kernel[check_grid("grouped_gemm", programs)](
        x.data, x_tiles, x_early, x.scales, weights, w_early, w.scales, y, y_scale, permutation.order, permutation.tiles, permutation.num_tiles,
        dims["S"], x.data.shape[0], dims["E"], permutation.tiles.shape[0], dims["K"], *w.scale_strides,
        N=columns, GATED=gated, GATHER=gated, TOP_K=top_k, SCALED=w.scales is not None and not w.blockwise, BLOCKWISE=w.blockwise,
        EVEN_K=dims["K"] % step == 0, STEP=step, ROWS=tile.rows, MIN_ROWS=tile.rows >> tile.max_halvings, COLS=tile.cols, TILES_PER_BAND=TILES_PER_BAND, TMA=tile.tma,
        EARLY=early, LATE=dims["K"] > early,
        num_warps=tile.warps, num_stages=tile.stages, **LAUNCH,
    )  # fmt: skip

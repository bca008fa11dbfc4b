"""One matrix product at any number of rows."""

from __future__ import annotations

import dataclasses

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from octavo.errors import KernelContractError
from octavo.ops.activations import BLOCK, Activations
from octavo.ops.bulk_copy import ALIGNMENT, descriptor, in_whole_tiles, takes_bulk_copies
from octavo.ops.contract import INDEX_LIMIT, Dims, check_range
from octavo.ops.experts.grouped_gemm import STEP, PersistentTile
from octavo.ops.experts.grouped_gemm.persistent import launch_persistent_dense
from octavo.ops.formats import LinearWeight
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid
from octavo.ops.linear.choice import choose_block_tile, choose_early, choose_tile, is_for_persistent
from octavo.ops.linear.early import launch_early_dense
from octavo.ops.linear.early_tile import EarlyTile
from octavo.ops.linear.kernel import dense_gemm_kernel
from octavo.ops.linear.tile import DenseTile
from octavo.ops.persistent import runs_persistent_kernels

__all__ = ["TILES_PER_BAND", "AnyTile", "DenseTile", "EarlyTile", "choose_tile", "dense_gemm"]

AnyTile = DenseTile | EarlyTile | PersistentTile
"""How a product is cut; its bits are the same with any."""
TILES_PER_BAND = 8
"""Row tiles whose programs run next to each other."""


def dense_gemm(x: Activations, w: LinearWeight, *, out: torch.Tensor, tile: AnyTile | None = None) -> torch.Tensor:
    """out = x @ w^T + bias

    The bits of a row depend on that row and the weights, not on T, the tile or other rows.

    Args:
        x: (T, K) in the format that the weights ask for; read.
        w: (N, K), with or without bias; read. On Hopper it must be complete before the kernel before this one on the stream begins, as it is read
            while that one still runs.
        out: (T, N) bf16 or f32; written.
        tile: sizes of one program's work, a PersistentTile only for FP8 on Hopper, without bias and to bf16, an EarlyTile only on Hopper;
            None chooses by T.

    Returns:
        out

    Raises:
        KernelContractError: an argument has another type, shape, dtype, device or range, or the tile cannot run.
    """
    dims = _check(x, w, out)
    rows, columns, width = dims["T"], dims["N"], dims["K"]
    if not rows:
        return out
    tile = tile or choose(x, w, out)
    if isinstance(tile, PersistentTile):
        _check_persistent(w, out)
        launch_persistent_dense(x, w, out=out)
        return out
    if isinstance(tile, EarlyTile):
        _check_early(w, out, tile)
        launch_early_dense(x, w, out=out, tile=tile)
        return out
    step = tile.step_factor * STEP[w.data.dtype]
    tile.check(gated=False, step_bytes=STEP[w.data.dtype] * w.data.element_size())
    if w.blockwise:
        check_range("tile.cols", tile.cols, 64, BLOCK, "a program reads one scale of a weight block per step")
        check_range("tile.step_factor", tile.step_factor, 1, 1, "a step is a block of weights")
    weights: torch.Tensor | TensorDescriptor = w.data
    inputs: torch.Tensor | TensorDescriptor = x.data
    if tile.tma:
        weights = descriptor("w.data", w.data, tile.cols, step)
        inputs = descriptor("x.data", in_whole_tiles(x.data, tile.rows), tile.rows, step)
    dense_gemm_kernel[check_grid("dense_gemm", -(-rows // tile.rows) * -(-columns // tile.cols))](
        inputs, x.scales, weights, w.scales, w.bias, out, rows, columns, width,
        SCALED=w.scales is not None and not w.blockwise, X_SCALE_STRIDE=w.scale_strides[0], BLOCKWISE=w.blockwise,
        BIAS=w.bias is not None, EVEN_K=width % step == 0, STEP=step,
        ROWS=tile.rows, COLS=tile.cols, ONE_ROW_TILE=rows <= tile.rows, TILES_PER_BAND=TILES_PER_BAND, TMA=tile.tma,
        num_warps=tile.warps, num_stages=tile.stages, **LAUNCH,
    )  # fmt: skip
    return out


def choose(x: Activations, w: LinearWeight, out: torch.Tensor) -> AnyTile:
    """The tile that `dense_gemm` takes for x (T, K), w (N, K) and out (T, N)."""
    rows, columns = out.shape
    early = choose_early(rows, w)
    if early and takes_bulk_copies(x.data, w.data) and not early.reasons_against(w, out.device):
        return early
    is_large = is_for_persistent(type(w).__name__, rows, columns)
    if is_large and takes_bulk_copies(x.data, w.data) and not _reasons_against_persistent(w, out):
        return PersistentTile()
    return choose_dense(x, w)


def choose_dense(x: Activations, w: LinearWeight) -> DenseTile:
    """The fastest known for x (T, K) and w (N, K) that is not persistent. Bulk copies need rows of whole 16 bytes, and here of a whole step."""
    (rows, width), columns = x.data.shape, len(w.data)
    aligned = width * w.data.element_size() % ALIGNMENT == 0 and takes_bulk_copies(x.data, w.data)
    if w.blockwise:
        tile = choose_block_tile(rows)
    else:
        tile = choose_tile(rows, columns, width // STEP[w.data.dtype], w.data.element_size())
    tma = aligned and width >= tile.step_factor * STEP[w.data.dtype]
    return dataclasses.replace(tile, tma=tma)


def _reasons_against_persistent(w: LinearWeight, out: torch.Tensor) -> list[str]:
    """Why a persistent tile cannot make the product of `w` that goes to `out`; empty if it can."""
    columns, width = w.data.shape
    reasons = PersistentTile().reasons_against(type(w).__name__, columns, width, gated=False)
    if w.bias is not None:
        reasons.append("w.bias: use a DenseTile")
    if out.dtype != torch.bfloat16:
        reasons.append(f"out {out.dtype}: use a DenseTile")
    if not runs_persistent_kernels(out.device):
        reasons.append(f"{out.device}: use a DenseTile where kernels are not compiled for compute capability 9.0")
    return reasons


def _check_persistent(w: LinearWeight, out: torch.Tensor) -> None:
    if reasons := _reasons_against_persistent(w, out):
        raise KernelContractError("tile", "a tile that can run", "; ".join(reasons))


def _check_early(w: LinearWeight, out: torch.Tensor, tile: EarlyTile) -> None:
    if reasons := tile.reasons_against(w, out.device):
        raise KernelContractError("tile", "a tile that can run", "; ".join(reasons))


def _check(x: Activations, w: LinearWeight, out: torch.Tensor) -> Dims:
    dims = LaunchDims()
    w.check_matrix("w", dims)
    if type(x) is not w.activations:
        raise KernelContractError("x", f"{w.activations.__name__} for {type(w).__name__}", type(x).__name__)
    x.check("x", dims, "T", "K")
    if w.bias is not None:
        dims.check("w.bias", w.bias, ("N",), dtype=torch.bfloat16)
    dims.check("out", out, ("T", "N"), dtype=(torch.bfloat16, torch.float32))
    check_range("x.data.shape[0]", dims["T"], 0, INDEX_LIMIT // 256 * 128, "pass fewer rows in one call")
    check_range("w.data.shape[0]", dims["N"], 1, INDEX_LIMIT // 2, "split the weight")
    return dims

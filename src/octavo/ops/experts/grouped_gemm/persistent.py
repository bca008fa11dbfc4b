"""Launches the persistent kernels."""

from __future__ import annotations

import dataclasses

import torch
from triton.experimental.gluon.language import NVMMASharedLayout
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from octavo.errors import KernelContractError
from octavo.ops.activations import Activations, GroupScaled
from octavo.ops.bulk_copy import ALIGNMENT, check_bulk_copies, in_whole_tiles, takes_bulk_copies
from octavo.ops.contract import INDEX_LIMIT, check_range
from octavo.ops.experts.grouped_gemm.block_kernel import HALF, PART, grouped_block_kernel
from octavo.ops.experts.grouped_gemm.channel_kernel import PIECE, X_BOX, grouped_channel_kernel
from octavo.ops.experts.grouped_gemm.persistent_device import BAND
from octavo.ops.experts.grouped_gemm.persistent_tile import STEP, PersistentTile
from octavo.ops.experts.permute import Permutation, max_tiles
from octavo.ops.formats import LinearWeight, Weights
from octavo.ops.launch import LAUNCH
from octavo.ops.persistent import multiprocessors

LAYOUT = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8, rank=2)
"""Of operands in shared memory: what wgmma reads without bank conflicts."""


def launch_persistent(
    x: Activations,
    w: Weights,
    permutation: Permutation,
    *,
    top_k: int,
    tile: PersistentTile,
    out: torch.Tensor | GroupScaled,
    assignments: int,
) -> None:
    """Launch the product of `grouped_gemm_swiglu_quantize` if `out` has scales, else of `grouped_gemm`, for one row at least, with arguments that it has
    checked.

    The launch is the same whatever the tiles in use: a graph holds it for all.

    Args:
        out: (S, N) bf16, or codes with their scales; the others are as there.

    Raises:
        KernelContractError: bulk copies cannot read an operand, or there are too many rows.
    """
    gated = isinstance(out, GroupScaled)
    (experts, _, width), columns = w.data.shape, _rows_of(out).shape[1]
    most_tiles = min(max_tiles(assignments, experts, tile.rows), permutation.tiles.shape[0])
    programs = multiprocessors(x.data.device)
    items = (most_tiles + BAND.value) * (columns // tile.columns(gated=gated)) + 2 * programs
    check_range("tiles x columns", items, 1, INDEX_LIMIT, "pass fewer tokens in one call")
    check_range(
        "permutation.assignments", permutation.assignments, 1, INDEX_LIMIT - tile.rows, "pass fewer tokens in one call"
    )
    if gated and not takes_bulk_copies(x.data):
        raise KernelContractError(
            "x.data", f"an address that is a multiple of {ALIGNMENT} bytes", "another (use a Tile, or pass a copy)"
        )
    lists = (permutation.order, permutation.tiles, permutation.num_tiles)
    sizes = (permutation.assignments, x.data.shape[0], experts, most_tiles, width)
    _launch(x, w, lists, sizes, gated=gated, top_k=top_k, out=out)


def launch_persistent_dense(x: Activations, w: LinearWeight, *, out: torch.Tensor) -> None:
    """Launch out = x @ w^T of one matrix, for one row at least: the plain product of one expert, whose rows are x's.

    Args:
        x: (T, K) in the format that `w` asks for; read.
        w: (N, K) without bias, for which `PersistentTile.check` finds nothing wrong; read.
        out: (T, N) bf16; written.

    Raises:
        KernelContractError: bulk copies cannot read an operand, or there are too many rows.
    """
    (rows, width), columns = x.data.shape, out.shape[1]
    tiles = -(-rows // PersistentTile.rows)
    items = (tiles + BAND.value) * (columns // PersistentTile.columns(gated=False)) + 2 * multiprocessors(x.data.device)
    check_range("tiles x columns", items, 1, INDEX_LIMIT, "pass fewer rows in one call")
    check_range("x.data.shape[0]", rows, 1, INDEX_LIMIT // 2, "pass fewer rows in one call")
    if w.blockwise:
        x = dataclasses.replace(x, data=in_whole_tiles(x.data, HALF.value))
    _launch(x, w, (None, None, None), (rows, rows, 1, tiles, width), gated=False, top_k=1, out=out)


def _launch(
    x: Activations,
    w: Weights,
    lists: tuple[torch.Tensor | None, ...],
    sizes: tuple[int, ...],
    *,
    gated: bool,
    top_k: int,
    out: torch.Tensor | GroupScaled,
) -> None:
    """Launch the kernel of the weights' format with the `lists` of rows, and numbers of assignments, rows of x, experts, tiles and K."""
    programs, width = multiprocessors(x.data.device), sizes[-1]
    y = _rows_of(out)
    options = {"N": y.shape[1], "num_warps": 4, **LAUNCH}
    weights = w.data.view(-1, width)
    if w.blockwise:
        x_tiles = None if gated else _descriptor("x.data", x.data, HALF.value)
        w_tiles = _descriptor("w.data", weights, PART.value)
        grouped_block_kernel[(programs,)](
            x.data, x_tiles, x.scales, w_tiles, w.scales, y, out.scale if isinstance(out, GroupScaled) else None, *lists, *sizes,
            GATED=gated, TOP_K=top_k, **options,
        )  # fmt: skip
    else:
        x_tiles = _descriptor("x.data", x.data, X_BOX.value)
        w_tiles = _descriptor("w.data", weights, PIECE.value)
        x_scale, w_expert, _, w_column = w.scale_strides
        grouped_channel_kernel[(programs,)](
            x_tiles, x.scales, w_tiles, w.scales, y, *lists, *sizes, x_scale, w_expert, w_column, **options
        )


def _rows_of(out: torch.Tensor | GroupScaled) -> torch.Tensor:
    return out.data if isinstance(out, GroupScaled) else out


def _descriptor(argument: str, matrix: torch.Tensor, height: int) -> TensorDescriptor:
    """Describe `matrix` (R, K) for bulk copies of (height, STEP) of it.

    Raises: See `check_bulk_copies`.
    """
    check_bulk_copies(argument, matrix)
    return TensorDescriptor.from_tensor(matrix, [height, STEP], LAYOUT)

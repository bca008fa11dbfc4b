"""Launches products of few rows whose weights are asked for early."""

from __future__ import annotations

import torch
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from octavo.ops.activations import Activations
from octavo.ops.bulk_copy import check_bulk_copies, in_whole_tiles
from octavo.ops.formats import LinearWeight
from octavo.ops.launch import LAUNCH, check_grid
from octavo.ops.linear.early_kernel import early_dense_kernel
from octavo.ops.linear.early_tile import STEP_BYTES, EarlyTile


def launch_early_dense(x: Activations, w: LinearWeight, *, out: torch.Tensor, tile: EarlyTile) -> None:
    """Launch out = x @ w^T + bias, for one row at least.

    Args:
        x: (T, K) in the format that `w` asks for; read.
        w: (N, K), of which `tile` can make the product; read.
        out: (T, N) bf16 or f32; written.
        tile: its sizes.

    Raises:
        KernelContractError: bulk copies cannot read an operand.
    """
    (rows, width), columns, group = x.data.shape, out.shape[1], tile.group(w)
    x_tiles = _steps("x.data", in_whole_tiles(x.data, tile.rows), group, tile.rows)
    w_tiles = _steps("w.data", w.data, group, tile.columns)
    early_dense_kernel[check_grid("dense_gemm", -(-rows // tile.rows) * -(-columns // tile.columns))](
        x_tiles, x.scales, w_tiles, w.scales, w.bias, out, rows, columns, width,
        SCALED=w.scales is not None and not w.blockwise, X_SCALE_STRIDE=w.scale_strides[0], BLOCKWISE=w.blockwise,
        BIAS=w.bias is not None, RING=tile.ring, PENDING=tile.pending(w), MOST_STEPS=tile.most_steps(w), num_warps=4, **LAUNCH,
    )  # fmt: skip


def _steps(argument: str, matrix: torch.Tensor, group: int, height: int) -> TensorDescriptor:
    """Describe `matrix` (R, K) as (steps, R, step of K) for bulk copies of `group` steps of `height` rows.

    Raises: See `check_bulk_copies`.
    """
    check_bulk_copies(argument, matrix)
    step = STEP_BYTES // matrix.element_size()
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8 * matrix.element_size(), rank=3)
    return TensorDescriptor.from_tensor(matrix.unflatten(1, (-1, step)).transpose(0, 1), [group, height, step], layout)

"""bf16 rows to FP8 e4m3 by the rule of `rule`, alone or behind SwiGLU (behind a norm: `add_norm`)."""

from __future__ import annotations

import dataclasses

import torch
import triton

from octavo.ops.activations import BLOCK, FP8, GroupScaled, StaticScaled, TokenScaled, blocks
from octavo.ops.bulk_copy import empty_with_room
from octavo.ops.contract import INDEX_LIMIT, Dims, check_range
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid
from octavo.ops.quantize.kernel import (
    quantize_kernel,
    quantize_static_kernel,
    swiglu_quantize_kernel,
)

__all__ = [
    "MAX_WIDTH",
    "CudaQuantizer",
    "quantize",
    "quantize_groups",
    "quantize_static",
    "swiglu_quantize",
]

MAX_WIDTH = 32768


_FEW_ROWS = 2048
_PROGRAM_ELEMENTS = 2048
_RESIDENT_WARPS = 4096
"""Half of what an H200 runs at a time."""


def _warps(programs: int, block: int) -> int:
    """For few programs up to 16, whose threads have eight numbers each, which is one load; where all do not run at once, a quarter of these."""
    warps = max(1, min(16, block // 256))
    return warps if programs * warps <= _RESIDENT_WARPS else max(1, warps // 4)


def _rows_per_program(rows: int, block: int) -> int:
    """Few rows spread over the device; of many, small ones share a program, as each costs a launch of its own."""
    return 1 if rows <= _FEW_ROWS else max(1, _PROGRAM_ELEMENTS // block)


def _bind(x: torch.Tensor, dims: Dims, width: str | int, rows_in_use: torch.Tensor | None) -> None:
    dims.check("x", x, ("R", width), dtype=torch.bfloat16)
    check_range("x.shape[0]", dims["R"], 0, INDEX_LIMIT, "pass fewer rows in one call")
    check_range("x.shape[1]", x.shape[1], 1, MAX_WIDTH, "the kernel keeps a row in registers")
    if rows_in_use is not None:
        dims.check("rows_in_use", rows_in_use, (1,), dtype=torch.int32)


def quantize(
    x: torch.Tensor,
    *,
    rows_in_use: torch.Tensor | None = None,
    out: TokenScaled | None = None,
    overlap_previous: bool = False,
) -> TokenScaled:
    """data = fp8(x / scale), scale = amax(row) / 448; see `rule` for zero, tiny and non-finite rows.

    Args:
        x: (R, K) bf16, K <= 32768; read.
        rows_in_use: (1,) int32 on the device, the rows in use; later rows are neither read nor written. None for all.
        out: data (R, K) fp8, scale (R,) f32; written. None allocates.
        overlap_previous: run at the same time as the launch before, which must be one of these kernels, wait before it lets this one
            start, as `permute` and products do, or stand behind one that does, and neither write what this one reads nor read what it writes.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    dims = LaunchDims()
    _bind(x, dims, "K", rows_in_use)
    rows, width = x.shape
    out = out or TokenScaled(empty_with_room(x.shape, FP8, x.device), x.new_empty((rows,), dtype=torch.float32))
    out.check("out", dims, "R", "K")
    _launch(x, out, rows_in_use, overlap_previous, groups=1, block=triton.next_power_of_2(width))
    return out


def quantize_groups(
    x: torch.Tensor,
    *,
    rows_in_use: torch.Tensor | None = None,
    out: GroupScaled | None = None,
    overlap_previous: bool = False,
) -> GroupScaled:
    """data = fp8(x / scale), scale = amax(128 columns of the row) / 448: the activations of block-scaled weights.

    Args:
        x: (R, K) bf16, K <= 32768; read.
        rows_in_use: (1,) int32 on the device, the rows in use; later rows are neither read nor written. None for all.
        out: data (R, K) fp8, scale (R, ceil(K / 128)) f32; written. None allocates.
        overlap_previous: run at the same time as the launch before, which must be one of these kernels, wait before it lets this one
            start, as `permute` and products do, or stand behind one that does, and neither write what this one reads nor read what it writes.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    dims = LaunchDims()
    _bind(x, dims, "K", rows_in_use)
    rows, width = x.shape
    groups = blocks(width)
    out = out or GroupScaled(empty_with_room(x.shape, FP8, x.device), x.new_empty((rows, groups), dtype=torch.float32))
    out.check("out", dims, "R", "K")
    _launch(x, out, rows_in_use, overlap_previous, groups=groups, block=max(BLOCK, triton.next_power_of_2(width)))
    return out


def _launch(
    x: torch.Tensor,
    out: TokenScaled | GroupScaled,
    rows_in_use: torch.Tensor | None,
    overlap_previous: bool,
    *,
    groups: int,
    block: int,
) -> None:
    """Quantize rows with `groups` scales each; `block`: the power of two that holds a row, whole groups of it."""
    rows, width = x.shape
    if not rows:
        return
    per_program = _rows_per_program(rows, block)
    programs = -(-rows // per_program)
    quantize_kernel[check_grid("quantize", programs)](
        x, out.data, out.scale, rows_in_use, rows, width, groups,
        ROWS=per_program, GROUPS=1 if groups == 1 else block // BLOCK, BLOCK=block, OVERLAP_PREVIOUS=overlap_previous,
        num_warps=_warps(programs, per_program * block), **LAUNCH,
    )  # fmt: skip


def quantize_static(
    x: torch.Tensor,
    scale: torch.Tensor,
    *,
    rows_in_use: torch.Tensor | None = None,
    out: StaticScaled | None = None,
    overlap_previous: bool = False,
) -> StaticScaled:
    """data = fp8(x / scale) held within +-448; NaN and infinity become the code of NaN.

    Args:
        x: (R, K) bf16, K <= 32768; read.
        scale: (1,) f32 > 0; read, and returned as the scale of the result.
        rows_in_use: (1,) int32 on the device, the rows in use; later rows are neither read nor written. None for all.
        out: data (R, K) fp8; written; its scale must be `scale`. None allocates.
        overlap_previous: run at the same time as the launch before, which must be one of these kernels, wait before it lets this one
            start, as `permute` and products do, or stand behind one that does, and neither write what this one reads nor read what it writes.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    dims = LaunchDims()
    _bind(x, dims, "K", rows_in_use)
    rows, width = x.shape
    out = out or StaticScaled(empty_with_room(x.shape, FP8, x.device), scale)
    out.check("out", dims, "R", "K")
    if rows:
        block = triton.next_power_of_2(width)
        per_program = _rows_per_program(rows, block)
        programs = -(-rows // per_program)
        quantize_static_kernel[check_grid("quantize_static", programs)](
            x, out.data, scale, rows_in_use, rows, width, ROWS=per_program, BLOCK=block, OVERLAP_PREVIOUS=overlap_previous,
            num_warps=_warps(programs, per_program * block), **LAUNCH,
        )  # fmt: skip
    return out


def swiglu_quantize(
    gate_up: torch.Tensor, *, rows_in_use: torch.Tensor | None = None, out: TokenScaled | None = None
) -> TokenScaled:
    """y = bf16(silu(gate) * up) in FP8 per token.

    Args:
        gate_up: (R, 2K) bf16, gate in the first K columns; read.
        rows_in_use: (1,) int32 on the device, the rows in use; later rows are neither read nor written. None for all.
        out: data (R, K) fp8, scale (R,) f32; written. None allocates.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    dims = LaunchDims()
    rows, width = gate_up.shape[0], gate_up.shape[-1] // 2
    _bind(gate_up, dims, 2 * width, rows_in_use)
    out = out or TokenScaled(
        empty_with_room((rows, width), FP8, gate_up.device), gate_up.new_empty((rows,), dtype=torch.float32)
    )
    dims.check("out.data", out.data, ("R", width), dtype=FP8)
    dims.check("out.scale", out.scale, ("R",), dtype=torch.float32)
    if rows:
        block = triton.next_power_of_2(width)
        swiglu_quantize_kernel[check_grid("swiglu_quantize", rows)](
            gate_up,
            out.data,
            out.scale,
            rows_in_use,
            rows,
            width,
            1,
            GROUPS=1,
            BLOCK=block,
            num_warps=_warps(rows, block),
            **LAUNCH,
        )
    return out


@dataclasses.dataclass(frozen=True)
class CudaQuantizer:
    """The kernels, as weights call on them; see `Quantizer`."""

    rows_in_use: torch.Tensor | None = None
    overlap_previous: bool = False

    def per_token(self, x: torch.Tensor) -> TokenScaled:
        """See `quantize`."""
        return quantize(x, rows_in_use=self.rows_in_use, overlap_previous=self.overlap_previous)

    def per_group(self, x: torch.Tensor) -> GroupScaled:
        """See `quantize_groups`."""
        return quantize_groups(x, rows_in_use=self.rows_in_use, overlap_previous=self.overlap_previous)

    def static(self, x: torch.Tensor, scale: torch.Tensor) -> StaticScaled:
        """See `quantize_static`."""
        return quantize_static(x, scale, rows_in_use=self.rows_in_use, overlap_previous=self.overlap_previous)

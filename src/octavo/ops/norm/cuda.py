"""Sum and root-mean-square norm in one kernel: PyTorch's sum over a row on CUDA changes with the number of rows."""

from __future__ import annotations

import dataclasses

import torch
import triton

from octavo.ops.activations import BLOCK, FP8, Activations, GroupScaled, Scaled, TokenScaled, Unscaled, blocks
from octavo.ops.bulk_copy import empty_with_room
from octavo.ops.contract import INDEX_LIMIT, check_range
from octavo.ops.inputs import Inputs
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid
from octavo.ops.norm.kernel import add_norm_kernel
from octavo.ops.quantize.cuda import MAX_WIDTH
from octavo.ops.weighted_sum import Addend, WeightedSum

__all__ = ["CudaAddNorm", "add_norm", "cuda_rms_norm"]

UNSCALED = frozenset[type[Activations]]({Unscaled})


def add_norm(
    x: torch.Tensor,
    change: Addend | None,
    weight: torch.Tensor,
    eps: float,
    *,
    forms: frozenset[type[Activations]] = UNSCALED,
) -> tuple[torch.Tensor, Inputs]:
    """z = bf16(x + change), y = bf16(bf16(z / sqrt(mean(z^2) + eps)) * weight), and y in FP8 as `quantize` makes it.

    A row's bits depend on that row alone, and not on what else is asked for.

    Args:
        x: (R, K) bf16, K <= 32768; read.
        change: (R, K) bf16, or the sum of parts of width K; read. None: z is x.
        weight: (K,) bf16, or float32, with which y is not rounded before the product; read.
        eps: added to the mean of squares.
        forms: how y is wanted: `Unscaled`, and `TokenScaled` or `GroupScaled`. Others are left to those who read it, from bf16.

    Returns:
        z (R, K) bf16, new or x itself, and y in the forms asked for, new.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    dims = LaunchDims()
    dims.check("x", x, ("R", "K"), dtype=torch.bfloat16)
    dims.check("weight", weight, ("K",), dtype=(torch.bfloat16, torch.float32))
    rows, width = dims["R"], dims["K"]
    check_range("x.shape[0]", rows, 0, INDEX_LIMIT, "pass fewer rows in one call")
    check_range("x.shape[1]", width, 1, MAX_WIDTH, "the kernel keeps a row in registers")
    added, ids, shares, in_use, experts, top_k = _addend(change, dims)
    total = x if change is None else torch.empty_like(x)
    out = _allocate(x, forms)
    if rows:
        codes, scales = (None, None) if out.scaled is None else (out.scaled.data, out.scaled.scale)
        grouped = scales is not None and scales.ndim == 2
        block = max(BLOCK if grouped else 2, triton.next_power_of_2(width))
        add_norm_kernel[check_grid("add_norm", rows)](
            x, added, ids, shares, in_use, weight, None if change is None else total, out.rows, codes, scales,
            eps, rows, width, experts, blocks(width) if grouped else 1,
            K=top_k, GROUPS=block // BLOCK if grouped else 1, BLOCK=block, num_warps=_warps(block), **LAUNCH,
        )  # fmt: skip
    return total, out


def cuda_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The norm of `add_norm` alone: x (R, K), weight (K,) bf16 -> (R, K) bf16, new.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    return add_norm(x, None, weight, eps)[1].bf16


@dataclasses.dataclass(frozen=True)
class CudaAddNorm:
    """See `AddNorm`."""

    weight: torch.Tensor
    eps: float
    forms: frozenset[type[Activations]]

    def __call__(self, x: torch.Tensor, change: Addend | None) -> tuple[torch.Tensor, Inputs]:
        """See `add_norm`."""
        return add_norm(x, change, self.weight, self.eps, forms=self.forms)


def _warps(block: int) -> int:
    """Eight numbers of a row a thread, which is one load and one store of each tensor; up to 16."""
    return max(1, min(16, block // 256))


def _addend(
    change: Addend | None, dims: LaunchDims
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, int, int]:
    """What the kernel reads of `change`: rows or parts, ids, weights, rows in use, the number of experts and of parts a row."""
    if not isinstance(change, WeightedSum):
        if change is not None:
            dims.check("change", change, ("R", "K"), dtype=torch.bfloat16)
        return change, None, None, None, 0, 0
    dims.check("change.ids", change.ids, ("R", "top_k"), dtype=torch.int32)
    dims.check("change.weights", change.weights, ("R", "top_k"), dtype=torch.float32)
    dims.check("change.parts", change.parts, ("S", "K"), dtype=torch.bfloat16)
    check_range("change.parts.shape[0]", dims["S"], dims["R"] * dims["top_k"], INDEX_LIMIT, "pass a row for each part")
    check_range("change.experts", change.experts, 1, INDEX_LIMIT, "pass the number of experts")
    if change.rows_in_use is not None:
        dims.check("change.rows_in_use", change.rows_in_use, (1,), dtype=torch.int32)
    return change.parts, change.ids, change.weights, change.rows_in_use, change.experts, dims["top_k"]


def _allocate(x: torch.Tensor, forms: frozenset[type[Activations]]) -> Inputs:
    """Room for the rows x (R, K) in one scaled form at most, and in bf16 if that or another form is wanted from it."""
    scaled: Scaled | None = None
    for form in (TokenScaled, GroupScaled):
        if scaled is None and form in forms:
            scale = x.new_empty(form.scale_shape(*x.shape), dtype=torch.float32)
            scaled = form(empty_with_room(x.shape, FP8, x.device), scale)
    enough = scaled is not None and forms == {type(scaled)}
    return Inputs(None if enough else empty_with_room(x.shape, x.dtype, x.device), scaled)

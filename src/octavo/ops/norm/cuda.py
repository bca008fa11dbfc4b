"""Root-mean-square normalisation in one kernel: PyTorch's sum over a row on CUDA changes with the number of rows."""

from __future__ import annotations

import torch
import triton

from octavo.ops.contract import INDEX_LIMIT, check_range
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid
from octavo.ops.norm.kernel import rms_norm_kernel
from octavo.ops.quantize.cuda import MAX_WIDTH

__all__ = ["cuda_rms_norm"]


def cuda_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """y = bf16(bf16(x / sqrt(mean(x^2) + eps)) * weight), a weight in float32 without the inner rounding.

    A row's bits depend on that row alone.

    Args:
        x: (R, K) bf16, K <= 32768; read.
        weight: (K,) bf16 or float32; read.
        eps: added to the mean of squares.

    Returns:
        (R, K) bf16, new.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    dims = LaunchDims()
    dims.check("x", x, ("R", "K"), dtype=torch.bfloat16)
    dims.check("weight", weight, ("K",), dtype=(torch.bfloat16, torch.float32))
    rows, width = dims["R"], dims["K"]
    check_range("x.shape[0]", rows, 0, INDEX_LIMIT, "pass fewer rows in one call")
    check_range("x.shape[1]", width, 1, MAX_WIDTH, "the kernel keeps a row in registers")
    out = torch.empty_like(x)
    if rows:
        block = triton.next_power_of_2(width)
        # a function of the row width alone: the reduction tree depends on it
        warps = max(1, min(8, block // 1024))
        rms_norm_kernel[check_grid("rms_norm", rows)](
            x, weight, out, eps, width, BLOCK=block, num_warps=warps, **LAUNCH
        )
    return out

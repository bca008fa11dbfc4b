"""Penalties and masks in one kernel."""

from __future__ import annotations

from typing import Any

import torch
import triton

from octavo.ops.adjust.kernel import adjust_kernel
from octavo.ops.adjust.settings import AdjustSettings
from octavo.ops.launch import LAUNCH, LaunchDims, check_grid

__all__ = ["cuda_adjust"]

SEGMENT = 2048
AS_WRITTEN: dict[str, Any] = LAUNCH if triton.knobs.runtime.interpret else LAUNCH | {"enable_fp_fusion": False}
"""Products are rounded before they are added, as on a CPU."""


def cuda_adjust(
    logits: torch.Tensor, counts: torch.Tensor, settings: AdjustSettings, *, out: torch.Tensor
) -> torch.Tensor:
    """See `adjust`; all tensors on CUDA, contiguous.

    Raises:
        KernelContractError: an argument has another shape, dtype, device or range.
    """
    dims = LaunchDims()
    settings.check(dims, logits, counts, out)
    segments = -(-dims["V"] // SEGMENT)
    if dims["R"] * segments:
        adjust_kernel[check_grid("adjust", dims["R"] * segments)](
            logits, out, counts, settings.penalties, settings.slots, settings.allowed, settings.allowed_rows,
            dims["R"], dims["V"], dims["S"], dims["M"], segments, SEGMENT=SEGMENT, num_warps=4, **AS_WRITTEN,
        )  # fmt: skip
    return out

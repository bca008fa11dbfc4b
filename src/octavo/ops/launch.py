"""Checks every launch of a Triton kernel, and gives the options that every launch passes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import triton

from octavo.errors import KernelContractError
from octavo.ops.contract import Dims, check_range

GRID_LIMIT = 2**31 - 1
"""Programs along the first grid axis (CUDA C++ Programming Guide, technical specifications per compute capability)."""

LAUNCH: dict[str, Any] = (
    {"PDL": False} if triton.knobs.runtime.interpret else {"PDL": True, "launch_pdl": True, "enable_fp_fusion": True}
)
"""What every launch passes and the interpreter does not know: programmatic dependent launch (see `device.wait_for_previous`),
and that a product and a sum may be fused, said here because Triton's default changes with 3.10 and bits with it."""


class LaunchDims(Dims):
    """Sizes of a kernel's tensors, which are contiguous and on CUDA, or anywhere for Triton's interpreter."""

    contiguous: ClassVar[bool] = True

    def bind_device(self, argument: str, device: torch.device) -> None:
        """See `Dims`."""
        super().bind_device(argument, device)
        if device.type != "cuda" and not triton.knobs.runtime.interpret:
            raise KernelContractError(
                argument, "a CUDA tensor", f"{device} (move it, or set TRITON_INTERPRET=1 before the import)"
            )


def check_grid(kernel: str, programs: int) -> tuple[int]:
    """Return the launch grid of `programs` programs.

    Raises: KernelContractError when the device cannot launch so many.
    """
    check_range(f"{kernel} grid", programs, 1, GRID_LIMIT, "pass fewer tokens in one call")
    return (programs,)

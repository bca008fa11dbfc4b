"""A write where there is no memory: the fault that recovery is for, made to order."""

from __future__ import annotations

import torch

from octavo.ops.wild_write.kernel import wild_write_kernel

__all__ = ["wild_write"]

WILD_OFFSET = 1 << 40
"""Elements past the tensor: no allocation reaches there."""


def wild_write(device: torch.device) -> None:
    """Have `device`, a CUDA one, answer all that follows with `an illegal memory access was encountered`."""
    wild_write_kernel[(1,)](torch.zeros(1, device=device), WILD_OFFSET)

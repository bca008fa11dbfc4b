"""Where persistent kernels run: programs that stay on their multiprocessor and go through many items, written in Gluon for Hopper."""

from __future__ import annotations

import functools

import torch
import triton

HOPPER = (9, 0)
"""The compute capability that has these kernels' instructions (wgmma; later ones do not)."""


@functools.cache
def runs_persistent_kernels(device: torch.device) -> bool:
    """Whether kernels on `device` are compiled, for Hopper."""
    if triton.knobs.runtime.interpret or device.type != "cuda":
        return False
    return torch.cuda.get_device_capability(device) == HOPPER


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many programs run at once, each with a multiprocessor's shared memory; every launch asks."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)

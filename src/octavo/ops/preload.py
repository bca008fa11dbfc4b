"""Does before the first launch what Triton needs for it that takes time and no device."""

from __future__ import annotations

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HOPPER = GPUTarget("cuda", 90, 32)


@triton.jit
def _nothing():
    pass


def preload() -> None:
    """Compile a kernel that does nothing; opens no device.

    Triton hashes its own files before its first compilation, 0.3 to 1 s (3.6 to 3.9): most of what a worker waits for that
    starts on kernels from the disk.
    """
    triton.compile(ASTSource(fn=_nothing, signature={}, constexprs={}), target=HOPPER)

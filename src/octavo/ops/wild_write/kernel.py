"""One program, one store."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def wild_write_kernel(start, far):
    """Grid (1,). Writes `far` elements past `start`."""
    tl.store(start + far.to(tl.int64), 1.0)

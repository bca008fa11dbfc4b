"""The mean of squares of norms by itself."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import mean_of_squares


@triton.jit
def mean_kernel(x, out, width, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    value = tl.load(x + column, mask=column < width, other=0.0).to(tl.float32)
    tl.store(out, mean_of_squares(value, width))

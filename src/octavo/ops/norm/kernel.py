"""One row, one program: the sum of squares has one tree per row width, whatever the batch."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import wait_for_previous


@triton.jit
def rms_norm_kernel(x, weight, y, eps, width, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """Grid (R,). x (R, width) bf16; rounds to bf16 after the division, unless the weight is float32, and after the weight."""
    wait_for_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + row * width + column, mask=inside, other=0.0).to(tl.float32)
    mean = tl.div_rn(tl.sum(value * value, 0), tl.full((), width, tl.float32))
    value = tl.div_rn(value, tl.broadcast_to(tl.sqrt_rn(mean + eps), (BLOCK,)))
    value = value.to(weight.dtype.element_ty).to(tl.float32)
    value *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * width + column, value.to(tl.bfloat16), mask=inside)

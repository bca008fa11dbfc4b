"""One row, one program: the sum of squares has one tree per row width, whatever the batch."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.kernels.device import follow
from octavo.kernels.quantize.kernel import store_row


@triton.jit
def add_norm_kernel(x, change, weight, total, normed, q, scales, eps, width, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """Grid (R,). x (R, width) bf16; rounds to bf16 after the sum, the division and the weight, as separate layers do.

    What is None is not read (`change`) or not written (`total`, `normed`, `q` with its `scales`).
    """
    follow(PDL)
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    at = row * width + column
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if change is not None:
        added = (value + tl.load(change + at, mask=inside, other=0.0).to(tl.float32)).to(tl.bfloat16)
        if total is not None:
            tl.store(total + at, added, mask=inside)
        value = added.to(tl.float32)
    mean = tl.div_rn(tl.sum(value * value, 0), tl.full((), width, tl.float32))
    value = tl.div_rn(value, tl.broadcast_to(tl.sqrt_rn(mean + eps), (BLOCK,))).to(tl.bfloat16).to(tl.float32)
    value *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    rounded = value.to(tl.bfloat16)
    if normed is not None:
        tl.store(normed + at, rounded, mask=inside)
    if q is not None:
        store_row(rounded.to(tl.float32), column, width, q, scales, row, BLOCK)

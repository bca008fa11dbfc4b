"""The division of norms by itself, with and without its correction."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import bf16_quotient


@triton.jit
def quotients_kernel(x, root, out, CORRECTED: tl.constexpr, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)[:, None]
    a, b = tl.load(x + at), tl.load(root + at)
    result = bf16_quotient(a, b)
    if not CORRECTED:
        result = (a * tl.div_rn(tl.full((SIZE, 1), 1.0, tl.float32), b)).to(tl.bfloat16)
    tl.store(out + at, result)

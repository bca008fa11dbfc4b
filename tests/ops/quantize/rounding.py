"""The rounding of rows that kernels do to what they store, by itself."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.quantize.kernel import round_groups


@triton.jit
def round_kernel(x, codes, scales, WIDTH: tl.constexpr):
    """One row of x (R, WIDTH) f32 for each program, as a product of experts rounds what it stores."""
    at = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)[None, :]
    value = tl.load(x + at)
    code, scale = round_groups(value)
    tl.store(codes + at, code)
    tl.store(scales + tl.program_id(0) + tl.arange(0, 1), scale)

"""One token, one program, assignments in order."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import is_finite, load_rows_in_use, wait_for_previous, weighted_sum


@triton.jit(do_not_specialize=["tokens"])
def combine_kernel(
    y,
    ids,
    weights,
    out,
    flags,
    rows_in_use,
    tokens,
    experts,
    width,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Grid (T,). A row past those in use becomes zero."""
    wait_for_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    live = row < load_rows_in_use(rows_in_use, tokens)
    column = tl.arange(0, BLOCK)
    inside = column < width
    result = weighted_sum(y, ids, weights, row, live, column, inside, width, experts, K, BLOCK)
    tl.store(out + row * width + column, result, mask=inside)
    tl.store(flags + row, tl.max((inside & ~is_finite(result.to(tl.float32))).to(tl.int32), 0) > 0)

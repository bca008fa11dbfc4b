"""One token, one program, assignments in order."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import is_finite, load_rows_in_use, wait_for_previous


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
    """Grid (T,). An absent assignment is not read; a row past those in use becomes zero."""
    wait_for_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    live = row < load_rows_in_use(rows_in_use, tokens)
    column = tl.arange(0, BLOCK)
    inside = column < width
    acc = tl.zeros((BLOCK,), tl.float32)
    for k in tl.static_range(K):
        expert = tl.load(ids + row * K + k)
        weight = tl.load(weights + row * K + k)
        present = live & (expert >= 0) & (expert < experts)
        value = tl.load(y + (row * K + k) * width + column, mask=inside & present, other=0.0).to(tl.float32)
        acc = tl.where(present, acc + weight * value, acc)
    result = acc.to(tl.bfloat16)
    tl.store(out + row * width + column, result, mask=inside)
    tl.store(flags + row, tl.max((inside & ~is_finite(result.to(tl.float32))).to(tl.int32), 0) > 0)

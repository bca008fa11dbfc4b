"""One row, one program: the sum of squares has one tree per row width, whatever the batch."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import launch_next_and_wait, load_rows_in_use, mean_of_squares, normed, weighted_sum
from octavo.ops.quantize.kernel import store_row


@triton.jit(do_not_specialize=["rows", "experts"])
def add_norm_kernel(
    x, change, ids, shares, rows_in_use, weight, total, y, q, scales,
    eps, rows, width, experts, groups,
    K: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (R,). x (R, width) bf16; rounds to bf16 after each sum, after the division unless the weight is float32, and after
    the weight.

    change: None, or (R, width) bf16, or, where there are ids, the K parts of each row's weighted sum. Outputs that are None are
    not wanted.
    """
    column = tl.arange(0, BLOCK)
    inside = column < width
    # no kernel writes weights, and they come from memory: nobody has read them since the step before. Converted behind the wait, or
    # they would be waited for first
    gain = tl.load(weight + column, mask=inside, other=0.0)
    launch_next_and_wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    at = row * width + column
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if change is not None:
        if ids is not None:
            live = row < load_rows_in_use(rows_in_use, rows)
            added = weighted_sum(change, ids, shares, row, live, column, inside, width, experts, K, BLOCK)
        else:
            added = tl.load(change + at, mask=inside, other=0.0)
        value = (value + added.to(tl.float32)).to(tl.bfloat16)
        if total is not None:
            tl.store(total + at, value, mask=inside)
        value = value.to(tl.float32)
    value = normed(value, tl.sqrt_rn(mean_of_squares(value, width) + eps), gain)
    if y is not None:
        tl.store(y + at, value.to(tl.bfloat16), mask=inside)
    if q is not None:
        store_row(value, column, width, q, scales, row, groups, GROUPS, BLOCK)

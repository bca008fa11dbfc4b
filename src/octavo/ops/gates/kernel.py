"""Elements side by side; where a head is normed, its sum of squares has one tree for each width, whatever the batch."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.device import MINUS_LOG2_E, launch_next_and_wait, normed, row_means_of_squares, silu
from octavo.ops.quantize.kernel import store_groups


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) in f32; see `silu`."""
    return 1.0 / (1.0 + tl.exp2(x * MINUS_LOG2_E))


@triton.jit
def swiglu_kernel(gate_up, out, width, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """Grid (T x blocks of a row,): gate_up (T, 2 width) f32, out (T, width) bf16."""
    launch_next_and_wait(PDL)
    blocks = tl.cdiv(width, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(gate_up + 2 * row * width + column, mask=inside, other=0.0)
    up = tl.load(gate_up + (2 * row + 1) * width + column, mask=inside, other=0.0)
    tl.store(out + row * width + column, (silu(gate) * up).to(tl.bfloat16), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def gate_kernel(
    x, gates, weight, out, codes, scales, rows, heads, row_stride, group_stride, head_stride, width, eps,
    GROUP_HEADS: tl.constexpr, HEADS: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of HEADS of all R x heads,): x and out (R x heads, width) bf16, gates as the strides say, in groups of GROUP_HEADS heads.

    With codes (R x heads, width) fp8 what `out` would get is quantised instead, each head in PARTS groups, which fill it, of a scale each.

    With a weight (width,) heads are normed, and multiplied by the silu of their gates; without, by the sigmoid in bf16.
    """
    launch_next_and_wait(PDL)
    head = tl.program_id(0).to(tl.int64) * HEADS + tl.arange(0, HEADS)
    column = tl.arange(0, BLOCK)
    inside = (head < rows * heads)[:, None] & (column < width)[None, :]
    at = head[:, None] * width + column[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    of_row = head % heads
    first = head // heads * row_stride + of_row // GROUP_HEADS * group_stride + of_row % GROUP_HEADS * head_stride
    gate = tl.load(gates + first[:, None] + column[None, :], mask=inside, other=0.0).to(tl.float32)
    if weight is not None:
        root = tl.sqrt_rn(row_means_of_squares(value, width, HEADS, BLOCK) + eps)[:, None]
        gain = tl.load(weight + column, mask=column < width, other=0.0)[None, :]
        value = normed(value, root, gain) * silu(gate)
    else:
        value *= sigmoid(gate).to(tl.bfloat16).to(tl.float32)
    if codes is not None:
        value = value.to(tl.bfloat16).to(tl.float32)
        store_groups(value, head, head < rows * heads, column, width, codes, scales, PARTS, HEADS, PARTS, BLOCK)
    else:
        tl.store(out + at, value.to(tl.bfloat16), mask=inside)


@triton.jit
def add_share_kernel(x, shared, logits, out, width, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """Grid (T x blocks of a row,): x, shared and out (T, width) bf16, logits None or (T,) f32."""
    launch_next_and_wait(PDL)
    blocks = tl.cdiv(width, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    at = row * width + column
    share = tl.load(shared + at, mask=inside, other=0.0).to(tl.float32)
    if logits is not None:
        share *= sigmoid(tl.load(logits + row))
    tl.store(out + at, (tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + share).to(tl.bfloat16), mask=inside)

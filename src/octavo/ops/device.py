"""Device functions that several kernels share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def wait_for_previous(PDL: tl.constexpr):
    """Wait until the kernel before has finished and its writes are seen; then let the next one start its launch.

    Nothing may be read or written before this, but for what no kernel still running writes: where the kernel before waits here
    too before it lets this one start, what it reads but does not write may be read, past the first cache (`.cg`). The launch
    itself overlaps the end of the kernel before.
    """
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def stay_behind(x, PACK: tl.constexpr, PDL: tl.constexpr):
    """x, PACK of which fill 32 bits, for what may not move above here: Triton puts an operand of a product where threads of
    other layouts read it right behind its load, so that the next load would begin when this one has ended."""
    if PDL:
        x = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=x.dtype, is_pure=False, pack=PACK)
    return x


@triton.jit
def launch_next_early(PDL: tl.constexpr):
    """Let the next kernel start its launch; call `wait_for_previous` at the end instead of the start.

    For a kernel that reads nothing that a kernel still running writes, and writes nothing that it reads. Still running may be the one
    before, and, where that let this one start before its own wait, those before it back to the last that waited first, as products,
    attention and recurrence do. Every program must reach the wait at the end: the next kernel waits for this one only.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def launch_next_and_wait(PDL: tl.constexpr):
    """`wait_for_previous`, with the next kernel's launch before the wait: a product behind this one asks for its weights meanwhile.

    For small kernels. What the next one reads before its own wait must be older than the last kernel before this one that waited first.
    """
    launch_next_early(PDL)
    wait_for_previous(PDL)


@triton.jit
def load_rows_in_use(rows_in_use, capacity):
    """Rows in use: `capacity`, or what device memory says at `rows_in_use`, held within [0, capacity].

    Not by way of the first cache, so that a number that an earlier kernel has written may be read before the wait for the last one.
    """
    rows = capacity
    if rows_in_use is not None:
        rows = tl.minimum(tl.maximum(tl.load(rows_in_use, cache_modifier=".cg"), 0), capacity)
    return rows


@triton.jit
def is_finite(x):
    """True where x is neither NaN nor infinite; a comparison with NaN is false."""
    return tl.abs(x) <= 3.4028234663852886e38


@triton.jit
def silu(x):
    """x / (1 + exp(-x)) in f32"""
    return x / (1.0 + tl.exp(-x))


@triton.jit
def block_scale(w_scale, x_scale, source, live, row_block, step, k_blocks):
    """(ROWS,) product of the scales of one K step: one block of weights, each row's own group."""
    inside = step < k_blocks
    rows = tl.load(x_scale + source * k_blocks + step, mask=live & inside, other=0.0)
    return rows * tl.load(w_scale + row_block.to(tl.int64) * k_blocks + step, mask=inside, other=0.0)


@triton.jit
def weighted_sum(parts, ids, weights, row, live, column, inside, width, experts, K: tl.constexpr, BLOCK: tl.constexpr):
    """(BLOCK,) bf16: the sum over k, in order, of weights[row, k] * parts[row x K + k]. An absent assignment is not read."""
    acc = tl.zeros((BLOCK,), tl.float32)
    for k in tl.static_range(K):
        expert = tl.load(ids + row * K + k)
        weight = tl.load(weights + row * K + k)
        present = live & (expert >= 0) & (expert < experts)
        value = tl.load(parts + (row * K + k) * width + column, mask=inside & present, other=0.0).to(tl.float32)
        acc = tl.where(present, acc + weight * value, acc)
    return acc.to(tl.bfloat16)

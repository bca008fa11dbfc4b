"""Device functions that several kernels share."""

from __future__ import annotations

import triton
import triton.language as tl

MOST_HALVINGS = tl.constexpr(16)
MINUS_LOG2_E = tl.constexpr(-1.4426950408889634)


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
def bf16_quotient(x, root):
    """The bf16 next to x / root f32, for x that was bf16 and root that has one number for all x, or for each row (rows, 1): at a
    quarter of a division's instructions.

    A product with the rounded inverse, and one correction by what it is off. It may differ from the division in the last
    bit of f32, but not where that bit decides how bf16 is rounded, which a test shows for all mantissas of x and every
    root next to such a place; below 2^-100 what it is off may be lost. With root 0 it is NaN, where a quotient may be infinite.
    """
    inverse = tl.div_rn(tl.full(root.shape, 1.0, tl.float32), root)
    # signs change by a product: unary minus is a subtraction from zero on the device, which loses that of a zero
    minus_x, minus_inverse = x * -1.0, inverse * -1.0
    # infinity times its inverse would be NaN
    root = tl.minimum(root, 3.4028234663852886e38)
    quotient = x * inverse
    root = tl.broadcast_to(root, x.shape)
    return tl.fma(tl.fma(quotient, root, minus_x), tl.broadcast_to(minus_inverse, x.shape), quotient).to(tl.bfloat16)


@triton.jit
def normed(x, root, weight):
    """The bf16 next to x / root * weight, as f32, rounded before the weight too where that is bf16; x was bf16, and root is as there."""
    if weight.dtype == tl.float32:
        x = tl.div_rn(x, tl.broadcast_to(root, x.shape)) * weight
    else:
        x = bf16_quotient(x, root).to(tl.float32) * weight.to(tl.float32)
    return x.to(tl.bfloat16).to(tl.float32)


@triton.jit
def silu(x):
    """x / (1 + exp(-x)) in f32: by a power of two, which `tl.exp` is too, with guards for results that are nothing beside one."""
    return x / (1.0 + tl.exp2(x * MINUS_LOG2_E))


@triton.jit
def block_scale(w_scale, x_scale, source, live, row_block, step, k_blocks):
    """(ROWS,) product of the scales of one K step: one block of weights, each row's own group."""
    inside = step < k_blocks
    rows = tl.load(x_scale + source * k_blocks + step, mask=live & inside, other=0.0)
    return rows * tl.load(w_scale + row_block.to(tl.int64) * k_blocks + step, mask=inside, other=0.0)


@triton.jit
def mean_of_squares(x, width):
    """The sum of x^2 over x (BLOCK,), zeros from `width` on, by `width`: one tree of neighbours, whatever the layout that Triton chooses.

    Each step adds two numbers, and the only multiply-adds are written out, so that no compiler fuses others.
    """
    first, second = tl.split(tl.reshape(x, (x.shape[0] // 2, 2)))
    total = tl.fma(first, first, second * second)
    for _ in tl.static_range(MOST_HALVINGS):
        if total.shape[0] > 1:
            total = tl.sum(tl.reshape(total, (total.shape[0] // 2, 2)), 1)
    return tl.div_rn(tl.sum(total, 0), tl.full((), width, tl.float32))


@triton.jit
def row_means_of_squares(x, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """(ROWS,): as `mean_of_squares`, of each row of x (ROWS, BLOCK), at least 2 numbers wide."""
    first, second = tl.split(tl.reshape(x, (ROWS, BLOCK // 2, 2)))
    total = tl.fma(first, first, second * second)
    for _ in tl.static_range(MOST_HALVINGS):
        if total.shape[1] > 1:
            total = tl.sum(tl.reshape(total, (ROWS, total.shape[1] // 2, 2)), 2)
    return tl.div_rn(tl.reshape(total, (ROWS,)), tl.full((ROWS,), width, tl.float32))


@triton.jit
def weighted_sum(
    parts, ids, weights, row, live, column, inside, width, experts, K: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """(BLOCK,) bf16: the sum over k, in order, of weights[row, k] * parts[row x K + k]. An absent assignment is not read."""
    # all are asked for before the first is waited for
    present, share, part = (), (), ()
    for k in tl.static_range(K):
        expert = tl.load(ids + row * K + k)
        present += (live & (expert >= 0) & (expert < experts),)  # type: ignore[assignment]
        share += (tl.load(weights + row * K + k),)  # type: ignore[assignment]
    for k in tl.static_range(K):
        value = tl.load(parts + (row * K + k) * width + column, mask=inside & present[k], other=0.0)
        part += (value,)  # type: ignore[assignment]
    acc = tl.zeros((BLOCK,), tl.float32)
    # behind a branch that is always taken, over which nothing is moved: to save registers, the compiler would ask for parts one by one
    if width > 0:
        for k in tl.static_range(K):
            weight = tl.broadcast_to(share[k], (BLOCK,))
            acc = tl.where(present[k], tl.fma(weight, part[k].to(tl.float32), acc), acc)
    return acc.to(tl.bfloat16)

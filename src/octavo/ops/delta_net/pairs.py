"""Matrices (16, 16) of a span as eight tensors of two rows: number i has rows 2 * i and 2 * i + 1, one for each half of a warp.

So a thread has one column's numbers in every second row, each in a register known at compilation, and takes a number of
another column by one shuffle, where a sum that picks it takes one for each halving. No number is read of a row that it does not belong to:
one that is not finite stays where it is.
"""

from __future__ import annotations

import triton
import triton.language as tl

PAIRS = tl.constexpr(8)


@triton.jit
def to_pairs(x):
    """The pairs of rows of x (16, 16)."""
    tl.static_assert(x.shape[0] == 2 * PAIRS)
    x = tl.permute(tl.reshape(x, (PAIRS, 2, 2 * PAIRS)), (1, 2, 0))
    even, odd = tl.split(tl.reshape(x, (2, 2 * PAIRS, 2, 2, 2)))
    even_low, even_high = tl.split(even)
    odd_low, odd_high = tl.split(odd)
    zero, four = tl.split(even_low)
    two, six = tl.split(even_high)
    one, five = tl.split(odd_low)
    three, seven = tl.split(odd_high)
    return zero, one, two, three, four, five, six, seven


@triton.jit
def from_pairs(x):
    """(16, 16) of its pairs of rows."""
    even = tl.join(tl.join(x[0], x[4]), tl.join(x[2], x[6]))
    odd = tl.join(tl.join(x[1], x[5]), tl.join(x[3], x[7]))
    joined = tl.reshape(tl.join(even, odd), (2, 2 * PAIRS, PAIRS))
    return tl.reshape(tl.permute(joined, (2, 0, 1)), (2 * PAIRS, 2 * PAIRS))


@triton.jit
def halves_and_columns():
    """(2, 16) each: a number's row and column in the first pair."""
    zero = tl.zeros((2, 2 * PAIRS), tl.int32)
    return zero + tl.arange(0, 2)[:, None], zero + tl.arange(0, 2 * PAIRS)[None, :]


@triton.jit
def beyond():
    """(2, 16): by how much a number's column is beyond its row, in the first pair; in another, twice the pair's number less."""
    half, column = halves_and_columns()
    return column - half


@triton.jit
def by_half(x):
    """x[column + half] (2, 16), of x which has one number for each row, twice (2, 16): what `take` takes a pair's rows of."""
    half, column = halves_and_columns()
    return tl.gather(x, (column + half) % (2 * PAIRS), 1)


@triton.jit
def take(x, pair, back: tl.constexpr = 0):
    """(2, 16): the numbers that x, of `by_half`, has for the rows of a pair, or for the rows before them. Which thread has them is known
    at compilation but for the half."""
    return tl.gather(x, tl.full((2, 2 * PAIRS), 2 * pair - back, tl.int32), 1)


@triton.jit
def diagonal(x):
    """x[i, i] of pairs, twice: (2, 16)."""
    picked = tl.zeros((2, 2 * PAIRS), tl.float32)
    for pair in tl.static_range(PAIRS):
        picked = tl.where(beyond() == 2 * pair, x[pair], picked)
    return tl.broadcast_to(tl.sum(picked, 0)[None, :], (2, 2 * PAIRS))


@triton.jit
def pick(x, row):
    """x[row] (16,) of pairs."""
    half, _ = halves_and_columns()
    picked = tl.zeros((2, 2 * PAIRS), tl.float32)
    for pair in tl.static_range(PAIRS):
        picked = tl.where(half == row - 2 * pair, x[pair], picked)
    return tl.sum(picked, 0)


@triton.jit
def products_between(x):
    """Pairs of the product of x (2, 16), one number for each row, twice, behind a column's place up to a row's, 1 where there is none: two rows on at a time."""
    x = by_half(x)
    between = (tl.where(beyond() < 0, take(x, 0), 1.0),)
    for pair in tl.static_range(1, PAIRS):
        two = tl.where(beyond() < 2 * pair, take(x, pair), 1.0)
        two *= tl.where(beyond() < 2 * pair - 1, take(x, pair, 1), 1.0)
        between += (between[pair - 1] * two,)  # type: ignore[assignment]
    return between


@triton.jit
def invert(x):
    """Pairs of (1 + x)^-1, of pairs of x, which is 0 on the diagonal and right of it: each row in turn is taken from those behind it."""
    half, _ = halves_and_columns()
    inverse = ()
    for pair in tl.static_range(PAIRS):
        inverse += (tl.where(beyond() == 2 * pair, 1.0, 0.0),)  # type: ignore[assignment]
    for step in tl.static_range(2 * PAIRS - 1):
        done = tl.sum(tl.where(half == step % 2, inverse[step // 2], 0.0), 0)[None, :]
        now = ()
        for pair in tl.static_range(PAIRS):
            if 2 * pair + 1 > step:
                share = tl.gather(x[pair], tl.full((2, 2 * PAIRS), step, tl.int32), 1)
                now += (inverse[pair] - share * done,)  # type: ignore[assignment]
            else:
                now += (inverse[pair],)  # type: ignore[assignment]
        inverse = now
    return inverse

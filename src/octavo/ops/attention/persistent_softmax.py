"""The arithmetic of a consumer of `persistent_attend_kernel`, in Gluon: that of `attend_kernel`, for 64 rows at a time.

Row numbers (R,) lie where the rows of scores do (`ROW`); to sums they go by `of_values` and `of_totals`, which move nothing.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma

from octavo.ops.attention import plan

KV_TILE = gl.constexpr(plan.KV_TILE)
WIDTH = gl.constexpr(128)
"""Numbers of a head."""
PIECE_ROWS = gl.constexpr(plan.ROWS)
"""Rows of a consumer."""
ONES = gl.constexpr(8)
"""Columns of ones that sum weights, the fewest of a product. One is read."""
SCORES = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16]))
VALUES = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16]))
TOTALS = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 8, 16]))
ROW = gl.constexpr(gl.SliceLayout(1, SCORES))
VALUES_ROW = gl.constexpr(gl.SliceLayout(1, VALUES))


@gluon.jit
def _reference(row_max):
    """As `attend_kernel`'s."""
    return gl.where(row_max == float("-inf"), 0.0, row_max)


@gluon.jit
def of_values(x):
    """x (R,) of scores' rows against sums of values: (R, 1)."""
    return gl.convert_layout(x, VALUES_ROW, assert_trivial=True)[:, None]


@gluon.jit
def of_totals(x):
    """x (R,) of scores' rows against sums of weights: (R, 1)."""
    return gl.convert_layout(x, gl.SliceLayout(1, TOTALS), assert_trivial=True)[:, None]


@gluon.jit
def merge(row_max, total, acc, split_row_max, totals, split_acc, scale):
    """As `attend_kernel`'s, of a split whose sums of weights are all columns of `totals`."""
    one = (gl.arange(0, ONES, gl.SliceLayout(0, TOTALS)) == 0)[None, :]
    split_total = gl.convert_layout(gl.sum(gl.where(one, totals, 0.0), 1), ROW, assert_trivial=True)
    highest = gl.maximum(row_max, split_row_max)
    reference = _reference(highest)
    before = gl.exp2((row_max - reference) * scale)
    now = gl.exp2((split_row_max - reference) * scale)
    total = gl.fma(total, before, split_total * now)
    _, kept = gl.broadcast(acc, of_values(before))
    return highest, total, gl.fma(acc, kept, split_acc * of_values(now))


@gluon.jit
def mask(scores, first_key, position, seen_by_all):
    """Scores of a tile, minus infinity for keys behind a row's position."""
    if first_key + KV_TILE > seen_by_all:
        key = first_key + gl.arange(0, KV_TILE, gl.SliceLayout(0, SCORES))
        scores = gl.where(key[None, :] <= position[:, None], scores, float("-inf"))
    return scores


@gluon.jit
def _halves_max(x):
    """x (R, N): the larger of columns n and n + N / 2, which one thread has: (R, N / 2)."""
    first, second = gl.split(gl.permute(gl.reshape(x, [x.shape[0], 2, x.shape[1] // 2]), (0, 2, 1)))
    return gl.maximum(first, second)


@gluon.jit
def _peak(scores):
    """The largest of each row, by a tree: a reduction is one chain of as many comparisons as a thread has numbers of a row."""
    x = _halves_max(_halves_max(_halves_max(scores)))
    return gl.convert_layout(gl.max(x, 1), ROW, assert_trivial=True)


@gluon.jit
def find_highest(scores, row_max, scale):
    """A split's new maximum, what it is taken relative to, and what sums relative to the old one shrink by."""
    highest = gl.maximum(row_max, _peak(scores))
    reference = _reference(highest)
    return highest, reference, gl.exp2((row_max - reference) * scale)


@gluon.jit
def weigh(scores, reference, scale):
    """Weights relative to `reference`, as what values are multiplied with, in the registers where scores are."""
    _, level = gl.broadcast(scores, (-reference * scale)[:, None])
    weights = gl.exp2(gl.fma(scores, gl.full(scores.shape, scale, gl.float32, SCORES), level))
    return gl.convert_layout(weights.to(gl.bfloat16), gl.DotOperandLayout(0, VALUES, 2), assert_trivial=True)


@gluon.jit
def multiply_keys(q, k_buffer):
    """q k^T, in flight."""
    zeros = gl.zeros([PIECE_ROWS, KV_TILE], gl.float32, SCORES)
    return warpgroup_mma(q, k_buffer.permute((1, 0)), zeros, use_acc=False, is_async=True)


@gluon.jit
def add_weights(left, ones, totals):
    """totals + the sums of weights, in flight."""
    left = gl.convert_layout(left, gl.DotOperandLayout(0, TOTALS, 2), assert_trivial=True)
    return warpgroup_mma(left, ones, totals, is_async=True)

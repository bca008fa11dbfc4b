"""Gated DeltaNet of PyTorch's operations: products of matrices of one shape, and else of two numbers at a time, so that nothing
beside a row changes an order."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch

from octavo.config.delta_shape import SPAN, DeltaShape
from octavo.ops.contract import Dims
from octavo.ops.delta_net.layer import (
    EPS,
    DeltaPlan,
    DeltaWeights,
    StateParts,
    StateUse,
    by_kind,
    check_delta,
    split_states,
)
from octavo.ops.matrix_products import matrix_products


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A line of a plan whose numbers are in range."""

    use: StateUse
    first: int
    rows: int
    before: int
    """Rows of its first span that came before it."""
    first_span: int

    @property
    def num_spans(self) -> int:
        """How many spans it has rows in."""
        return -(-(self.before + self.rows) // SPAN)

    @property
    def written(self) -> list[tuple[int, int]]:
        """(state, rows after which it is the chunk's), in order."""
        use = self.use
        return [*([(use.keep, use.keep_after)] if use.keep >= 0 else []), (use.state, self.rows)]


@dataclasses.dataclass(frozen=True)
class Spans:
    """All spans of a step, row by row; what has no row yet is zero, and has a decay of one."""

    channels: torch.Tensor
    """(N x 16, C) bf16, convolved; queries of rows before the chunk are zero."""
    gates: torch.Tensor
    """(N x 16, 2, value heads) float32: how much each row writes, and what is left of a state before it."""

    @classmethod
    def empty(cls, count: int, shape: DeltaShape, states: torch.Tensor) -> Spans:
        """`count` spans without rows, on the device of `states` (..., numbers) float32."""
        gates = states.new_zeros((count * SPAN, 2, shape.value_heads))
        gates[:, 1] = 1.0
        return cls(states.new_zeros((count * SPAN, shape.channels), dtype=torch.bfloat16), gates)


class CpuDeltaNet:
    """See `DeltaNet`."""

    def __init__(self, shape: DeltaShape, weights: DeltaWeights) -> None:
        self._shape, self._weights = shape, weights
        self._taps = weights.taps.float()

    def __call__(
        self,
        qkv: torch.Tensor,
        write_logits: torch.Tensor,
        decay_logits: torch.Tensor,
        states: torch.Tensor,
        plan: DeltaPlan,
    ) -> torch.Tensor:
        """See `DeltaNet`: (T, C) bf16 -> (T, value heads * value_dim) bf16."""
        shape = self._shape
        check_delta(Dims(), qkv, write_logits, decay_logits, self._weights, states, plan, shape)
        qkv, (write_logits, decay_logits) = by_kind(qkv, (write_logits, decay_logits), shape)
        chunks = sorted(_chunks(plan, len(qkv), len(states)), key=lambda chunk: -chunk.num_spans)
        kept, spans = split_states(states, shape), Spans.empty(len(plan.spans), shape, states)
        # side by side: where they are not, PyTorch's exponentials on a CPU have other bits
        write, decay = sigmoid(write_logits.contiguous()), decays(decay_logits.contiguous(), self._weights)
        gates = torch.stack((write, decay), dim=1)
        for chunk, inputs, convolved in self._convolve(chunks, qkv, kept.history):
            self._fill(spans, chunk, inputs, convolved, gates, kept)
        return _scan(spans, chunks, len(qkv), kept.memory, shape)

    def _convolve(
        self, chunks: Sequence[Chunk], qkv: torch.Tensor, histories: torch.Tensor
    ) -> list[tuple[Chunk, torch.Tensor, torch.Tensor]]:
        """Each chunk, its rows behind those before them (taps - 1 + n, C), and what they give (n, C) bf16."""
        nothing = torch.zeros_like(histories[:1]).squeeze(0)
        inputs = [
            part
            for chunk in chunks
            for part in (
                histories[chunk.use.source] if chunk.use.source >= 0 else nothing,
                qkv[chunk.first : chunk.first + chunk.rows],
            )
        ]
        if not inputs:
            return []
        joined, before = torch.cat(inputs), len(nothing)
        # of all rows at once: what spans two chunks is read by none
        convolved = convolve(joined.float(), self._taps)
        sizes = [before + chunk.rows for chunk in chunks]
        starts = itertools.accumulate(sizes, initial=0)
        return [
            (chunk, joined[start : start + size], convolved[start : start + chunk.rows])
            for chunk, start, size in zip(chunks, starts, sizes, strict=False)
        ]

    def _fill(
        self,
        spans: Spans,
        chunk: Chunk,
        inputs: torch.Tensor,
        convolved: torch.Tensor,
        gates: torch.Tensor,
        kept: StateParts,
    ) -> None:
        """Put the open rows and those of `chunk` in its spans, and keep what the next chunk reads of both."""
        shape, source, before = self._shape, max(0, chunk.use.source), chunk.before
        place = chunk.first_span * SPAN
        own = slice(place + before, place + before + chunk.rows)
        spans.channels[own] = convolved
        spans.gates[own] = gates[chunk.first : chunk.first + chunk.rows]
        spans.channels[place : own.start, shape.queries :] = kept.rows[source, :before]
        spans.gates[place : own.start] = kept.gates[source, :before]
        for state, after in chunk.written:
            end = own.start + after
            count = (before + after) % SPAN
            kept.history[state] = inputs[after : after + shape.taps - 1]
            kept.rows[state, :count] = spans.channels[end - count : end, shape.queries :]
            kept.gates[state, :count] = spans.gates[end - count : end]


def _chunks(plan: DeltaPlan, rows: int, states: int) -> list[Chunk]:
    """The lines of `plan` whose numbers are in range."""
    chunks = []
    for *use, first, count, before, first_span in plan.chunks.tolist():
        chunk = Chunk(StateUse(*use), first, count, before, first_span)
        known = -1 <= chunk.use.source < states and 0 <= chunk.use.state < states
        known &= 0 <= before < SPAN and (before == 0 or chunk.use.source >= 0)
        known &= 0 <= first_span <= len(plan.spans) - chunk.num_spans
        if known and first >= 0 and count > 0 and first + count <= rows:
            keeps = 0 <= chunk.use.keep < states and 0 < chunk.use.keep_after <= count
            chunks.append(chunk if keeps else dataclasses.replace(chunk, use=chunk.use._replace(keep=-1)))
    return chunks


def convolve(inputs: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """silu of the weighted sum of each row and those before it.

    Args:
        inputs: (taps - 1 + n, C) float32; read.
        taps: (C, taps) float32, the oldest input's first; read.

    Returns:
        (n, C) bf16, new.
    """
    count = taps.shape[1]
    rows = len(inputs) - count + 1
    total = inputs[:rows] * taps[:, 0]
    for tap in range(1, count):
        total += inputs[tap : tap + rows] * taps[:, tap]
    return (total / total.neg().exp_().add_(1.0)).to(torch.bfloat16)


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    """1 / (1 + exp(-x)) of x (...) float32, new; written out, as torch.sigmoid rounds the last few numbers otherwise."""
    return x.neg().exp_().add_(1.0).reciprocal_()


def decays(logits: torch.Tensor, weights: DeltaWeights) -> torch.Tensor:
    """What each state is multiplied by, in [0, 1]: logits (T, value heads) float32 -> the same, new."""
    x = logits + weights.step_bias
    softplus = x.clamp(min=0.0) + x.abs().neg_().exp_().log1p_()
    return softplus.mul_(weights.log_decay.exp()).neg_().exp_()


def unit(x: torch.Tensor) -> torch.Tensor:
    """x (..., D) float32 divided by its length; new."""
    return x * tree_sum(x.square(), -1).add_(EPS).rsqrt_().unsqueeze(-1)


def tree_sum(x: torch.Tensor, dim: int) -> torch.Tensor:
    """The sum over one dimension of x (...) float32, halves onto halves of the next power of two; the dimension is gone."""
    size = x.shape[dim]
    while size > 1:
        half = 1 << (size - 1).bit_length() - 1
        low, high = x.narrow(dim, 0, half), x.narrow(dim, half, size - half)
        if size == 2 * half:
            x = low + high
        else:
            x = low.clone()
            x.narrow(dim, 0, size - half).add_(high)
        size = half
    return x.squeeze(dim)


def products(decay: torch.Tensor) -> torch.Tensor:
    """decay (B, 16, heads) -> (B, heads, 16, 16) float32, new: at t, j the product of those behind j up to t; 0 where j > t."""
    every = decay.new_ones((SPAN, SPAN)).tril_().expand(len(decay), decay.shape[2], SPAN, SPAN).clone()
    for row in range(1, SPAN):
        every[:, :, row:, :row] *= decay[:, row, :, None, None]
    return every


def _scan(spans: Spans, chunks: Sequence[Chunk], tokens: int, memory: torch.Tensor, shape: DeltaShape) -> torch.Tensor:
    """The delta rule over chunks side by side, those with the most spans first: (tokens, value heads * value_dim) bf16."""
    out = memory.new_empty((tokens, shape.value_heads * shape.value_dim), dtype=torch.bfloat16)
    now = memory.new_zeros((len(chunks), *memory.shape[1:]))
    for index, chunk in enumerate(chunks):
        if chunk.use.source >= 0:
            now[index] = memory[chunk.use.source]
    rows_of = torch.arange(SPAN, device=out.device)
    for step in range(max((chunk.num_spans for chunk in chunks), default=0)):
        active = [chunk for chunk in chunks if chunk.num_spans > step]
        places = rows_of.new_tensor([(chunk.first_span + step) * SPAN for chunk in active])
        begins = [step * SPAN - chunk.before for chunk in active]
        ends = [min(SPAN, chunk.rows - begin) for chunk, begin in zip(active, begins, strict=True)]
        firsts = [max(0, -begin) for begin in begins]
        states = now[: len(active)]
        _store(memory, active, states, step)
        mixed = _mix(spans, places[:, None] + rows_of, states, min(firsts), ends, shape)
        for chunk, begin, first, end, rows in zip(active, begins, firsts, ends, mixed, strict=True):
            out[chunk.first + begin + first : chunk.first + begin + end] = rows[first:end]
    for index, chunk in enumerate(chunks):
        _store(memory, [chunk], now[index : index + 1], chunk.num_spans)
    return out


def _store(memory: torch.Tensor, chunks: Sequence[Chunk], states: torch.Tensor, step: int) -> None:
    """Keep the `states` before span `step` of each chunk where it is the last one that is full."""
    for chunk, state in zip(chunks, states, strict=True):
        for place, after in chunk.written:
            if (chunk.before + after) // SPAN == step:
                memory[place] = state


def _mix(
    spans: Spans, rows: torch.Tensor, states: torch.Tensor, first: int, ends: list[int], shape: DeltaShape
) -> torch.Tensor:
    """What each row of B spans gives, and the states behind those that are full.

    Args:
        spans: of the step; read.
        rows: (B, 16) int64, those of the spans.
        states: (B, value heads, value_dim, key_dim) float32, before each span; moved on.
        first: row before which nobody reads what the spans give.
        ends: rows that each has.
        shape: sizes.

    Returns:
        (B, 16, value heads * value_dim) bf16, new.
    """
    shared = shape.value_heads // shape.key_heads
    sizes = [shape.queries, shape.queries, shape.value_heads * shape.value_dim]
    sides = spans.channels[rows].float().split(sizes, dim=2)
    # (B, heads, 16, numbers)
    q, k = (
        unit(side.unflatten(2, (shape.key_heads, -1))).repeat_interleave(shared, 2).transpose(1, 2)
        for side in sides[:2]
    )
    v = sides[2].unflatten(2, (shape.value_heads, -1)).transpose(1, 2)
    write, decay = spans.gates[rows].unbind(2)
    between, write = products(decay), write.transpose(1, 2).unsqueeze(-1)
    left = between[..., :1] * decay[:, 0, :, None, None]  # of the state before the span
    k, q = k.contiguous(), q.mul(shape.key_dim**-0.5)
    with_keys = _product(k, k.mT).mul_(between).mul_(write)
    with_queries = _product(q, k.mT).mul_(between)
    change = (v - _product(k, states.mT).mul_(left)).mul_(write)
    out = _product(q, states.mT).mul_(left)
    for row in range(max(ends)):
        # of rows before it alone: a row that is not finite is no part of theirs
        begin = max(row, first)
        out[..., begin:, :] += with_queries[..., begin:, row, None] * change[..., row, None, :]
        change[..., row + 1 :, :] -= with_keys[..., row + 1 :, row, None] * change[..., row, None, :]
    for index, end in enumerate(ends):
        if end == SPAN:
            last = between[index, :, -1, :, None]
            states[index] = states[index] * left[index, :, -1:] + _product(change[index].mT, k[index] * last)
    return out.transpose(1, 2).flatten(2).to(torch.bfloat16)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left (..., M, K) @ right (..., K, N) float32, new; matrix by matrix, whose order of summation follows from their shape."""
    many = matrix_products(left.reshape(-1, *left.shape[-2:]), right.reshape(-1, *right.shape[-2:]))
    return many.view(*left.shape[:-2], *many.shape[1:])

"""Gated DeltaNet of PyTorch's operations: products and sums of two numbers at a time, so that no shape and no thread changes an
order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from octavo.ops.contract import Dims
from octavo.ops.delta_net.layer import EPS, DeltaPlan, DeltaShape, DeltaWeights, StateUse, check_delta


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A line of a plan whose numbers are in range."""

    use: StateUse
    first: int
    rows: int


class CpuDeltaNet:
    """See `DeltaNet`."""

    def __init__(self, shape: DeltaShape, weights: DeltaWeights) -> None:
        self._shape, self._weights = shape, weights

    def __call__(
        self,
        qkv: torch.Tensor,
        write_logits: torch.Tensor,
        decay_logits: torch.Tensor,
        states: torch.Tensor,
        plan: DeltaPlan,
    ) -> torch.Tensor:
        """See `DeltaNet`: (T, C) bf16 -> (T, value heads * value_dim) bf16."""
        shape, weights, dims = self._shape, self._weights, Dims()
        check_delta(dims, qkv, write_logits, decay_logits, weights, states, plan, shape)
        chunks = sorted(_chunks(plan, len(qkv), len(states)), key=lambda chunk: -chunk.rows)
        memory, histories = states.split([shape.state_numbers, shape.state.numbers - shape.state_numbers], dim=1)
        convolved = torch.empty_like(qkv)
        for chunk in chunks:
            rows = slice(chunk.first, chunk.first + chunk.rows)
            inputs = torch.cat((_history(histories, chunk.use, shape), qkv[rows].float()))
            convolved[rows] = convolve(inputs, weights.taps.float())
            for state, after in written(chunk):
                histories[state] = inputs[after : after + shape.taps - 1].flatten()
        write, decay = sigmoid(write_logits), decays(decay_logits, weights)
        return _scan(convolved, write, decay, memory, chunks, shape)


def _chunks(plan: DeltaPlan, rows: int, states: int) -> list[Chunk]:
    """The lines of `plan` whose numbers are in range."""
    chunks = []
    for *use, first, count in plan.chunks.tolist():
        chunk = Chunk(StateUse(*use), first, count)
        known = -1 <= chunk.use.source < states and 0 <= chunk.use.state < states
        if known and first >= 0 and count > 0 and first + count <= rows:
            keeps = 0 <= chunk.use.keep < states
            chunks.append(chunk if keeps else dataclasses.replace(chunk, use=chunk.use._replace(keep=-1)))
    return chunks


def _history(histories: torch.Tensor, use: StateUse, shape: DeltaShape) -> torch.Tensor:
    """(taps - 1, C) float32: the inputs before a chunk."""
    kept = histories[max(0, use.source)].view(shape.taps - 1, shape.channels)
    return torch.zeros_like(kept) if use.source < 0 else kept


def written(chunk: Chunk) -> list[tuple[int, int]]:
    """(state, rows after which it is the chunk's), in order."""
    use = chunk.use
    kept = [(use.keep, use.keep_after)] if use.keep >= 0 and 0 < use.keep_after <= chunk.rows else []
    return [*kept, (use.state, chunk.rows)]


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


def _scan(
    convolved: torch.Tensor,
    write: torch.Tensor,
    decay: torch.Tensor,
    memory: torch.Tensor,
    chunks: Sequence[Chunk],
    shape: DeltaShape,
) -> torch.Tensor:
    """The delta rule over chunks side by side, the longest first: (T, C) bf16 -> (T, value heads * value_dim) bf16."""
    keys = shape.key_heads * shape.key_dim
    shared = shape.value_heads // shape.key_heads
    queries, all_keys, values = convolved.float().split([keys, keys, shape.value_heads * shape.value_dim], dim=1)
    q = unit(queries.unflatten(1, (shape.key_heads, -1))).mul_(shape.key_dim**-0.5).repeat_interleave(shared, 1)
    k = unit(all_keys.unflatten(1, (shape.key_heads, -1))).repeat_interleave(shared, 1)
    v = values.unflatten(1, (shape.value_heads, -1))
    out = torch.empty_like(v, dtype=torch.bfloat16)
    now = memory.new_zeros((len(chunks), shape.value_heads, shape.key_dim, shape.value_dim))
    for index, chunk in enumerate(chunks):
        if chunk.use.source >= 0:
            now[index] = memory[chunk.use.source].view(now.shape[1:])
    ends = [(index, after, state) for index, chunk in enumerate(chunks) for state, after in written(chunk)]
    firsts = torch.tensor([chunk.first for chunk in chunks], dtype=torch.int64, device=v.device)
    for step in range(max((chunk.rows for chunk in chunks), default=0)):
        active = sum(chunk.rows > step for chunk in chunks)
        rows = firsts[:active] + step
        state, key = now[:active], k[rows].unsqueeze(-1)
        state *= decay[rows, :, None, None]
        known = tree_sum(state * key, -2)
        state += key * ((v[rows] - known) * write[rows].unsqueeze(-1)).unsqueeze(-2)
        out[rows] = tree_sum(state * q[rows].unsqueeze(-1), -2).to(torch.bfloat16)
        for index, after, place in ends:
            if after == step + 1:
                memory[place] = now[index].flatten()
    return out.flatten(1)

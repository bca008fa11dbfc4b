"""What Gated DeltaNet is on every device: bound to its weights once, planned once per step, called by every layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from octavo.config.delta_shape import SPAN, DeltaShape
from octavo.errors import KernelContractError
from octavo.ops.contract import INDEX_LIMIT, Dims, check_range
from octavo.ops.upload import upload

EPS = 1e-6
"""Added to the sum of squares by which queries and keys are normed."""
MAX_TAPS = 8
MAX_KEY_DIM = 256
"""A kernel keeps a tile of the state in registers, all of a key's numbers wide."""
LINE = 8
"""Numbers of a line of a plan."""


@dataclasses.dataclass(frozen=True)
class DeltaWeights:
    """The parameters of one layer between its projections."""

    taps: torch.Tensor
    """(C, taps) bf16, the oldest input's first."""
    log_decay: torch.Tensor
    """(value heads,) float32: the logarithm of how fast a state decays."""
    step_bias: torch.Tensor
    """(value heads,) float32"""


class StateUse(NamedTuple):
    """What a chunk does with states, by their numbers."""

    source: int
    """Where it goes on from; -1: from nothing, as the request begins with it."""
    state: int
    """What its last row leaves: the state of its request."""
    keep: int = -1
    """What gets the state behind its first `keep_after` rows too; -1: nothing does."""
    keep_after: int = 0


@dataclasses.dataclass(frozen=True)
class DeltaPlan:
    """The chunks of a step, and the spans that they have rows in."""

    chunks: torch.Tensor
    """(S, 8) int32: a `StateUse`, the chunk's first row, its rows, how many rows of its first span came before it, and the number
    of its first span among all. A line whose numbers are out of range is left out, as one of -1 is."""
    first_single: torch.Tensor
    """(1,) int32: the first of the chunks, which are the last, that are a single row each, go on in their request's state and keep
    nothing else, as all of decode does."""
    spans: torch.Tensor
    """(N,) int32: the chunk of each span, those of a chunk in order; -1: of none."""
    only_singles: bool = False
    """Whether all chunks are such single rows. False: only `first_single` says."""


def plan_delta(
    uses: Sequence[StateUse], chunk_starts: Sequence[int], context_lens: Sequence[int], device: torch.device
) -> DeltaPlan:
    """The plan of chunks that are not empty, its tensors on `device`.

    Args:
        uses: (S) of each chunk. No state that one of them writes is another's, or is read by another.
        chunk_starts: (S + 1) rows.
        context_lens: (S) tokens of each chunk's request up to its last row.
        device: on which the plan is read.

    Raises:
        KernelContractError: there are not as many uses as chunks, they meet in a state, or one goes on from nothing in the midst
            of a request.
    """
    written = [use.state for use in uses] + [use.keep for use in uses if use.keep >= 0]
    read = {use.source for use in uses if use.source not in (-1, use.state)}
    if not len(uses) == len(chunk_starts) - 1 == len(context_lens):
        raise KernelContractError("uses", f"{len(chunk_starts) - 1}, one for each chunk", str(len(uses)))
    if len(set(written)) != len(written) or read.intersection(written):
        raise KernelContractError("uses", "states that are written once and by nobody else read", str(list(uses)))
    check_range("chunk_starts[-1]", chunk_starts[-1], 0, INDEX_LIMIT - SPAN, "pass fewer tokens in one call")
    starts = np.array(chunk_starts, dtype=np.int64)
    states, counts = np.array(uses, dtype=np.int64).reshape(-1, 4), np.diff(starts)
    begins = np.array(context_lens, dtype=np.int64) - counts
    if (begins[states[:, 0] < 0] != 0).any():
        raise KernelContractError("uses", "a source for each chunk that does not begin its request", str(list(uses)))
    before = begins % SPAN
    num_spans = -(-(before + counts) // SPAN)
    rows = np.stack((starts[:-1], counts, before, np.cumsum(num_spans) - num_spans), axis=1)
    lines = np.hstack((states, rows)).astype(np.int32)
    is_single = (counts == 1) & (states[:, 0] == states[:, 1]) & (states[:, 2] < 0)
    order = np.argsort(is_single, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    spans = np.repeat(place, num_spans).astype(np.int32)
    first_single = np.array([len(order) - is_single.sum()], dtype=np.int32)
    chunks, first, of_spans = (upload(torch.from_numpy(part), device) for part in (lines[order], first_single, spans))
    return DeltaPlan(chunks, first, of_spans, only_singles=bool(is_single.all()))


def most_spans(tokens: int, chunks: int) -> int:
    """In how many spans so many tokens can be, in so many chunks: a chunk of n rows has some in (n + 14) // 16 + 1 at most."""
    return min(tokens, (tokens + (2 * SPAN - 2) * chunks) // SPAN)


class StateParts(NamedTuple):
    """What is kept of each request, as views of `states`; see `DeltaShape.state`."""

    memory: torch.Tensor
    """(states, value heads, value_dim, key_dim) float32"""
    gates: torch.Tensor
    """(states, 15, 2, value heads) float32"""
    history: torch.Tensor
    """(states, taps - 1, C) bf16"""
    rows: torch.Tensor
    """(states, 15, C - queries) bf16"""


def split_states(states: torch.Tensor, shape: DeltaShape) -> StateParts:
    """The parts of `states` (states, numbers) float32."""
    halves = states.view(torch.bfloat16)
    sizes = (shape.state_numbers, shape.gate_numbers)
    memory, gates, _ = states.split([*sizes, states.shape[1] - sum(sizes)], dim=1)
    history = halves.narrow(1, 2 * sum(sizes), shape.history_numbers)
    rows = halves.narrow(1, 2 * sum(sizes) + shape.history_numbers, shape.open_numbers)
    return StateParts(
        memory.unflatten(1, (shape.value_heads, shape.value_dim, shape.key_dim)),
        gates.unflatten(1, (-1, 2, shape.value_heads)),
        history.unflatten(1, (-1, shape.channels)),
        rows.unflatten(1, (-1, shape.channels - shape.queries)),
    )


def check_delta(
    dims: Dims,
    qkv: torch.Tensor,
    write_logits: torch.Tensor,
    decay_logits: torch.Tensor,
    weights: DeltaWeights,
    states: torch.Tensor,
    plan: DeltaPlan,
    shape: DeltaShape,
) -> None:
    """Hold the arguments of a call to each other and bind T, S, N and `states` in `dims`; shapes as `DeltaNet`.

    Raises:
        KernelContractError: one has another dtype, size or device, or the shape is out of range.
    """
    check_range("shape.taps", shape.taps, 2, MAX_TAPS, "the convolution reads as many inputs at once")
    check_range("shape.key_dim", shape.key_dim, 1, MAX_KEY_DIM, "a kernel keeps a row of the state")
    if shape.value_heads % shape.key_heads:
        raise KernelContractError("shape.value_heads", f"a multiple of {shape.key_heads}", str(shape.value_heads))
    heads = shape.value_heads
    if qkv.dim() == 3:
        dims.check("qkv", qkv, ("T", shape.key_heads, "numbers of a key head"), dtype=torch.bfloat16, apart=True)
        least = shape.channels // shape.key_heads
        check_range("qkv.shape[2]", dims["numbers of a key head"], least, INDEX_LIMIT, "pass queries, keys and values")
        _check_apart("qkv", qkv, least)
    else:
        dims.check("qkv", qkv, ("T", shape.channels), dtype=torch.bfloat16, apart=True)
    of_logits = ("T", shape.key_heads, heads // shape.key_heads) if write_logits.dim() == 3 else ("T", heads)
    dims.check("write_logits", write_logits, of_logits, dtype=torch.float32, apart=True)
    dims.check("decay_logits", decay_logits, of_logits, dtype=torch.float32, apart=True)
    if write_logits.dim() == 3:
        _check_apart("write_logits", write_logits, heads // shape.key_heads)
        if apart(write_logits) != apart(decay_logits):
            strides = f"{apart(write_logits)} and {apart(decay_logits)} (take both from one tensor)"
            raise KernelContractError("decay_logits", "key heads as far apart as those of write_logits", strides)
    dims.check("weights.taps", weights.taps, (shape.channels, shape.taps), dtype=torch.bfloat16)
    dims.check("weights.log_decay", weights.log_decay, (heads,), dtype=torch.float32)
    dims.check("weights.step_bias", weights.step_bias, (heads,), dtype=torch.float32)
    dims.check("states", states, ("states", shape.state.numbers), dtype=torch.float32)
    dims.check("plan.chunks", plan.chunks, ("S", LINE), dtype=torch.int32)
    dims.check("plan.first_single", plan.first_single, (1,), dtype=torch.int32)
    dims.check("plan.spans", plan.spans, ("N",), dtype=torch.int32)


def apart(x: torch.Tensor) -> int:
    """How far apart the key heads of x (T, key heads, numbers) are; of one alone, how much it holds."""
    return x.stride(1) if x.shape[1] > 1 else x.shape[2]


def _check_apart(argument: str, x: torch.Tensor, least: int) -> None:
    """Raises: KernelContractError: key heads of x (T, key heads, numbers) share numbers, or are found by more than 32 bits."""
    most = INDEX_LIMIT // max(1, x.shape[1])
    check_range(f"{argument}.stride(1)", apart(x), least, most, "pass key heads of their own, near each other")


def by_kind(
    qkv: torch.Tensor, logits: Sequence[torch.Tensor], shape: DeltaShape
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What `DeltaNet` takes, by key head or not, as (T, C) and (T, value heads)."""
    if qkv.dim() == 3:
        values = shape.value_heads // shape.key_heads * shape.value_dim
        parts = qkv[..., : 2 * shape.key_dim + values].split([shape.key_dim, shape.key_dim, values], dim=2)
        qkv = torch.cat([part.flatten(1) for part in parts], dim=1)
    return qkv, [each.flatten(1) for each in logits]


class DeltaNet(Protocol):
    """Gated DeltaNet of one layer, between its projections."""

    def __call__(
        self,
        qkv: torch.Tensor,
        write_logits: torch.Tensor,
        decay_logits: torch.Tensor,
        states: torch.Tensor,
        plan: DeltaPlan,
    ) -> torch.Tensor:
        """Convolve, norm queries and keys, and run the delta rule from the state that each chunk goes on from.

        For each token and value head, with q and k of length one, q divided by sqrt(key_dim):
        S = decay S; S = S + (write (v - S k)) k^T; out = S q; write = sigmoid(write_logits),
        decay = exp(-exp(log_decay) softplus(decay_logits + step_bias)). In float32, from the state S behind the span before
        and the rows of the span: u_t = write_t (v_t - G_t S k_t - sum over j < t of (D_tj k_t k_j) u_j),
        out_t = G_t S q_t + sum over j <= t of (D_tj q_t k_j) u_j, with the products G_t and D_tj of the decays up to t, from the
        span's first row and behind j; S = G S + sum over j of D_j u_j k_j^T behind its last row (the chunked form of Yang,
        Kautz and Hatamizadeh, "Gated Delta Networks", 2024). A span is computed anew for each row that joins it, so that a row's bits
        depend on its request's tokens up to it alone.

        Args:
            qkv: (T, C) bf16: query heads, key heads, value heads; or (T, key heads, numbers): of each key head its query, its key, its value
                heads, and whatever else, which is not read. Rows and key heads may be apart; read.
            write_logits: (T, value heads) float32, or (T, key heads, value heads of each), apart or not; read.
            decay_logits: likewise.
            states: (states, numbers) float32, as `DeltaShape.state`; those of the plan are written.
            plan: of this step.

        Returns:
            (T, value heads * value_dim) bf16, new; rows in no chunk have no meaning.

        Raises:
            KernelContractError: a tensor has another dtype or size.
        """
        ...

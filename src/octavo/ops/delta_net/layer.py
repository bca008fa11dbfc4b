"""What Gated DeltaNet is on every device: bound to its weights once, planned once per step, called by every layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from octavo.config.facts import RecurrentState
from octavo.errors import KernelContractError
from octavo.ops.contract import INDEX_LIMIT, Dims, check_range
from octavo.ops.upload import upload

EPS = 1e-6
"""Added to the sum of squares by which queries and keys are normed."""
MAX_TAPS = 8
MAX_KEY_DIM = 256
"""A kernel keeps a tile of the state in registers, all of a key's numbers high."""


@dataclasses.dataclass(frozen=True)
class DeltaShape:
    """`value_heads` states of key_dim x value_dim numbers; value_heads / key_heads of them share queries and keys."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    taps: int
    """Inputs that the convolution reads: the row's own and those of the taps - 1 tokens before it."""

    @property
    def channels(self) -> int:
        """C: query heads, key heads and value heads, which the convolution takes one by one."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    @property
    def state_numbers(self) -> int:
        """Numbers of the states of all value heads."""
        return self.value_heads * self.key_dim * self.value_dim

    @property
    def state(self) -> RecurrentState:
        """What is kept of a request: the state of each value head (key_dim, value_dim), then the last taps - 1 inputs."""
        history = (self.taps - 1) * self.channels
        return RecurrentState(self.state_numbers + history)


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
    """The chunks of a step."""

    chunks: torch.Tensor
    """(S, 6) int32: a `StateUse`, the chunk's first row and its rows. A line whose numbers are out of range is left out, as one
    of -1 is."""


def plan_delta(uses: Sequence[StateUse], chunk_starts: tuple[int, ...], device: torch.device) -> DeltaPlan:
    """The plan of chunks that are not empty, its tensor on `device`.

    Args:
        uses: (S) of each chunk. No state that one of them writes is another's, or is read by another.
        chunk_starts: (S + 1) rows.
        device: on which the plan is read.

    Raises:
        KernelContractError: there are not as many uses as chunks, or they meet in a state.
    """
    written = [use.state for use in uses] + [use.keep for use in uses if use.keep >= 0]
    read = {use.source for use in uses if use.source not in (-1, use.state)}
    if len(uses) != len(chunk_starts) - 1:
        raise KernelContractError("uses", f"{len(chunk_starts) - 1}, one for each chunk", str(len(uses)))
    if len(set(written)) != len(written) or read.intersection(written):
        raise KernelContractError("uses", "states that are written once and by nobody else read", str(list(uses)))
    check_range("chunk_starts[-1]", chunk_starts[-1], 0, INDEX_LIMIT, "pass fewer tokens in one call")
    starts = np.array(chunk_starts, dtype=np.int64)
    rows = np.stack((starts[:-1], np.diff(starts)), axis=1)
    lines = np.hstack((np.array(uses, dtype=np.int64).reshape(-1, 4), rows)).astype(np.int32)
    return DeltaPlan(upload(torch.from_numpy(lines), device))


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
    """Hold the arguments of a call to each other and bind T, S and `states` in `dims`; shapes as `DeltaNet`.

    Raises:
        KernelContractError: one has another dtype, size or device, or the shape is out of range.
    """
    check_range("shape.taps", shape.taps, 2, MAX_TAPS, "the convolution reads as many inputs at once")
    check_range("shape.key_dim", shape.key_dim, 1, MAX_KEY_DIM, "a kernel keeps a column of the state")
    if shape.value_heads % shape.key_heads:
        raise KernelContractError("shape.value_heads", f"a multiple of {shape.key_heads}", str(shape.value_heads))
    heads = shape.value_heads
    dims.check("qkv", qkv, ("T", shape.channels), dtype=torch.bfloat16)
    dims.check("write_logits", write_logits, ("T", heads), dtype=torch.float32)
    dims.check("decay_logits", decay_logits, ("T", heads), dtype=torch.float32)
    dims.check("weights.taps", weights.taps, (shape.channels, shape.taps), dtype=torch.bfloat16)
    dims.check("weights.log_decay", weights.log_decay, (heads,), dtype=torch.float32)
    dims.check("weights.step_bias", weights.step_bias, (heads,), dtype=torch.float32)
    dims.check("states", states, ("states", shape.state.numbers), dtype=torch.float32)
    dims.check("plan.chunks", plan.chunks, ("S", 6), dtype=torch.int32)


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
        S = decay S; S = S + k (write (v - k S))^T; out = q S; write = sigmoid(write_logits),
        decay = exp(-exp(log_decay) softplus(decay_logits + step_bias)). All in float32, token by token, so that a row's bits
        depend on its request's tokens up to it alone.

        Args:
            qkv: (T, C) bf16: query heads, key heads, value heads; read.
            write_logits: (T, value heads) float32; read.
            decay_logits: (T, value heads) float32; read.
            states: (states, numbers) float32, as `DeltaShape.state`; those of the plan are written.
            plan: of this step.

        Returns:
            (T, value heads * value_dim) bf16, new; rows in no chunk have no meaning.

        Raises:
            KernelContractError: a tensor has another dtype or size.
        """
        ...

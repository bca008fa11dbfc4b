"""Requests for Gated DeltaNet, and runs of them in chunks."""

from __future__ import annotations

import dataclasses
import itertools

import torch

from memory import Guard
from octavo.config.delta_shape import SPAN, DeltaShape
from octavo.ops.delta_net import DeltaNet, DeltaWeights, StateUse, plan_delta
from octavo.ops.delta_net.cpu import CpuDeltaNet
from octavo.ops.delta_net.cuda import KernelDeltaNet
from octavo.ops.delta_net.layer import split_states
from octavo.ops.delta_net.reference import delta_net_reference

SHAPES = {
    "one-head": DeltaShape(1, 1, 16, 8, 4),
    "shared-keys": DeltaShape(2, 4, 16, 24, 4),
    "odd": DeltaShape(3, 3, 12, 20, 3),
    "two-taps": DeltaShape(1, 2, 32, 33, 2),
    "whole-columns": DeltaShape(2, 4, 16, 32, 4),
}
BACKENDS: dict[str, type[CpuDeltaNet] | type[KernelDeltaNet]] = {"cpu": CpuDeltaNet, "kernel": KernelDeltaNet}


@dataclasses.dataclass
class Tokens:
    """What the projections give of one request's tokens."""

    qkv: torch.Tensor
    write_logits: torch.Tensor
    decay_logits: torch.Tensor

    @classmethod
    def draw(cls, count: int, shape: DeltaShape, seed: int) -> Tokens:
        noise = torch.Generator().manual_seed(seed)
        qkv = torch.randn((count, shape.channels), generator=noise).bfloat16()
        write, decay = torch.randn((2, count, shape.value_heads), generator=noise) * 2
        return cls(qkv, write.clone(), decay.clone())

    def __getitem__(self, rows: slice) -> Tokens:
        return Tokens(self.qkv[rows], self.write_logits[rows], self.decay_logits[rows])

    @classmethod
    def join(cls, parts: list[Tokens]) -> Tokens:
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def draw_weights(shape: DeltaShape, seed: int = 3) -> DeltaWeights:
    noise = torch.Generator().manual_seed(seed)
    taps = torch.randn((shape.channels, shape.taps), generator=noise).bfloat16()
    log_decay, bias = torch.randn((2, shape.value_heads), generator=noise)
    return DeltaWeights(taps, log_decay - 2.0, bias.clone())


def empty_states(shape: DeltaShape, count: int, device: torch.device) -> torch.Tensor:
    """Full of NaN: a state that is read before it is written shows."""
    return torch.full((count, shape.state.numbers), torch.nan, device=device)


Step = list[tuple[Tokens, int, int, StateUse]]
"""Of each chunk all tokens of its request, its first and the one behind its last, and what it does with states."""


class Machine:
    """One layer on a device, with canaries around all that it is given."""

    def __init__(self, backend: str, shape: DeltaShape, device: torch.device, num_states: int = 4) -> None:
        self.shape = shape
        self._backend, self._guard = backend, Guard(device)
        self.set_weights(draw_weights(shape))
        self.states = self._guard.copy(empty_states(shape, num_states, device))

    def set_weights(self, weights: DeltaWeights) -> None:
        self.weights = weights
        self.layer: DeltaNet = BACKENDS[self._backend](self.shape, self._guard.rebuild_copy(weights))

    def run(self, chunks: Step) -> list[torch.Tensor]:
        """What each of `chunks` gives in one step."""
        joined = self._guard.rebuild_copy(Tokens.join([tokens[first:end] for tokens, first, end, _ in chunks]))
        counts = [end - first for _, first, end, _ in chunks]
        starts = list(itertools.accumulate(counts, initial=0))
        ends, uses = [end for _, _, end, _ in chunks], [use for *_, use in chunks]
        plan = self._guard.rebuild_copy(plan_delta(uses, starts, ends, torch.device("cpu")))
        out = self.layer(joined.qkv, joined.write_logits, joined.decay_logits, self.states, plan)
        self._guard.check()
        return list(out.cpu().split(counts))

    def alone(self, tokens: Tokens) -> torch.Tensor:
        """The whole request in one chunk, with nothing beside it."""
        return self.run([(tokens, 0, len(tokens.qkv), StateUse(-1, 0))])[0]

    def kept(self, place: int, count: int) -> list[torch.Tensor]:
        """What is kept at `place` of a request of `count` tokens: state, gates, history and rows."""
        memory, gates, history, rows = split_states(self.states.cpu().clone(), self.shape)
        return [memory[place], gates[place, : count % SPAN], history[place], rows[place, : count % SPAN]]

    def expected(self, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
        """What each row gives, and the state behind the last."""
        return delta_net_reference(tokens.qkv, tokens.write_logits, tokens.decay_logits, self.weights, self.shape)

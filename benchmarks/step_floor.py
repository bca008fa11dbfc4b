"""The time below which no implementation computes a step of a model, from its weights, its cache and the rates of a card.

Each layer is taken as products of dense weights, products of experts, and attention or the states of Gated DeltaNet, one behind the other.
Each of these takes at least the larger of two times: its bytes at the rate at which the card copies, and its operations at the rates of
its FP8 and bf16 products. Bytes are all weights, once, and of experts those of as many as random routing touches; keys and values that are
read or written, each once; states. Behind the last layer comes the head, with the weights and the product of the wanted rows. Rows between these
parts are not counted, since they may stay in the card's cache, and neither are the embedding and logits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Self

import torch

from octavo.config.delta_shape import SPAN, DeltaShape
from octavo.config.facts import CacheLayout, PagedKv, RecurrentState
from octavo.models.decoder.parameters import (
    AttentionParameters,
    DecoderParameters,
    DeltaNetParameters,
    DenseMlp,
    LayerParameters,
    SharedExpert,
    SparseMlp,
)
from octavo.ops.activations import FP8
from octavo.ops.experts import SharedRule
from octavo.ops.formats import LinearWeight


@dataclasses.dataclass(frozen=True)
class Rates:
    """Of a card, each per second: bytes that it copies, read and written, and operations of its products of FP8 and of bf16."""

    copied: float
    fp8: float
    bf16: float


@dataclasses.dataclass(frozen=True)
class Work:
    """Bytes that must be moved, and operations of FP8 and of bf16."""

    num_bytes: float = 0.0
    fp8: float = 0.0
    bf16: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.num_bytes + other.num_bytes, self.fp8 + other.fp8, self.bf16 + other.bf16)

    def bytes_us(self, rates: Rates) -> float:
        """Microseconds of the bytes alone."""
        return self.num_bytes / rates.copied * 1e6

    def operations_us(self, rates: Rates) -> float:
        """Microseconds of the operations alone."""
        return (self.fp8 / rates.fp8 + self.bf16 / rates.bf16) * 1e6


@dataclasses.dataclass(frozen=True)
class Floor:
    """Microseconds of a step: of its bytes, of its operations, and, part by part, of the larger of both."""

    bytes_us: float
    operations_us: float
    us: float

    @classmethod
    def of(cls, parts: Sequence[Work], rates: Rates) -> Self:
        """Of parts that follow each other."""
        times = [(part.bytes_us(rates), part.operations_us(rates)) for part in parts]
        return cls(sum(moved for moved, _ in times), sum(computed for _, computed in times), sum(map(max, times)))


@dataclasses.dataclass(frozen=True)
class Rows:
    """Those of a step: `requests` with `tokens` new ones each, behind `before` in the cache; the last `wanted` of each are all that the
    layer is needed for, but for keys, values and states."""

    requests: int
    tokens: int
    before: int
    wanted: int

    @property
    def all(self) -> int:
        """Of all requests."""
        return self.requests * self.tokens

    @property
    def outputs(self) -> int:
        """Wanted, of all requests."""
        return self.requests * self.wanted

    @property
    def pairs(self) -> int:
        """Of a wanted row and one that it sees, itself included."""
        last = self.before + self.tokens
        return self.requests * (self.wanted * last - self.wanted * (self.wanted - 1) // 2)


def step_parts(parameters: DecoderParameters, cache: CacheLayout, rows: Rows) -> list[Work]:
    """The parts of a step that computes the logits of the wanted rows; before the last layer all rows are wanted.

    Args:
        parameters: on any device, `meta` too: only sizes are read.
        cache: of each layer.

    Raises:
        TypeError: it is not known what a layer of this kind takes.
    """
    *before, last = zip(parameters.layers, cache, strict=True)
    everything = dataclasses.replace(rows, wanted=rows.tokens)
    parts = [part for layer, kept in before for part in layer_parts(layer, kept, everything)]
    head = Work(tensor_bytes(parameters.head)) + product(parameters.head, rows.outputs)
    return [*parts, *layer_parts(*last, rows), head]


def layer_parts(layer: LayerParameters, cache: PagedKv | RecurrentState, rows: Rows) -> list[Work]:
    """Dense products, attention or states, and products of experts if there are any. Raises: see `step_parts`."""
    mlp = layer.mlp
    experts = mlp.experts if isinstance(mlp, SparseMlp) else None
    weights = Work(tensor_bytes(layer) - tensor_bytes(experts))
    parts = [
        weights + mixer_products(layer.mixer, rows) + mlp_products(mlp, rows),
        mixer_work(layer.mixer, cache, rows),
    ]
    return [*parts, expert_work(mlp, rows.outputs)] if isinstance(mlp, SparseMlp) else parts


def mixer_products(mixer: object, rows: Rows) -> Work:
    """The projections: to keys and values of all rows, the others of those that are wanted."""
    match mixer:
        case AttentionParameters(qkv=into):
            cached = into.data.shape[0] - (1 + mixer.gated) * mixer.out.data.shape[1]
            rest = Work()
        case DeltaNetParameters(qkvz=into):
            cached = mixer.shape.channels - mixer.shape.queries
            rest = product(mixer.write_decay, rows.all)
        case _:
            raise TypeError(f"{type(mixer).__name__}: it is not known what it takes")
    share = cached / into.data.shape[0]
    return product(into, share * rows.all + (1 - share) * rows.outputs) + rest + product(mixer.out, rows.outputs)


def mixer_work(mixer: object, cache: PagedKv | RecurrentState, rows: Rows) -> Work:
    """What is between the projections: q k and p v of each pair of rows, or of each state S k, the change of S, and S q."""
    match mixer, cache:
        case AttentionParameters(), PagedKv():
            moved = rows.requests * (rows.before + rows.tokens) * cache.bytes_per_token
            return Work(moved, bf16=4.0 * rows.pairs * mixer.out.data.shape[1])
        case DeltaNetParameters(), RecurrentState():
            chunks = [(rows.tokens, rows.before)] * rows.requests
            products = 2 * rows.all + rows.outputs
            return Work(state_bytes(mixer.shape, chunks), bf16=2.0 * products * mixer.shape.state_numbers)
        case _:
            raise TypeError(f"{type(mixer).__name__} with {type(cache).__name__}: it is not known what it takes")


def mlp_products(mlp: object, rows: Rows) -> Work:
    """Those of a dense MLP, or of a router and of the expert that all rows share."""
    match mlp:
        case DenseMlp():
            return product(mlp.gate_up, rows.outputs) + product(mlp.down, rows.outputs)
        case SparseMlp(shared=None):
            return product(mlp.router, rows.outputs)
        case SparseMlp(shared=SharedExpert(mlp=every, gate=gate)):
            weighed = Work() if gate is None else product(gate, rows.outputs)
            return product(mlp.router, rows.outputs) + weighed + mlp_products(every, rows)
        case _:
            raise TypeError(f"{type(mlp).__name__}: it is not known what it takes")


def expert_work(mlp: SparseMlp, rows: int) -> Work:
    """The weights of the experts that are touched, and the products of those that each row chooses, or has like all others."""
    experts, count = mlp.experts, len(mlp.experts.gate_up.data)
    every = isinstance(mlp.rule, SharedRule)  # an expert of all rows
    used = (every and rows > 0) + touched(count - every, mlp.rule.top_k - every, rows)
    moved = used / count * tensor_bytes(experts)
    chosen = rows * mlp.rule.top_k / count
    return Work(moved) + product(experts.gate_up, chosen) + product(experts.down, chosen)


def touched(experts: int, top_k: int, rows: int) -> float:
    """E (1 - (1 - K / E)^T): how many experts T rows touch, if each chooses any K with equal chance."""
    return experts * (1 - (1 - top_k / experts) ** rows)


def product(weight: LinearWeight | torch.Tensor, rows: float) -> Work:
    """2 R N K operations of R rows, without the bytes; of stacked experts, as if each row took all of them."""
    data = weight if isinstance(weight, torch.Tensor) else weight.data
    operations = 2.0 * rows * data.numel()
    return Work(fp8=operations) if data.dtype == FP8 else Work(bf16=operations)


def state_bytes(shape: DeltaShape, chunks: Sequence[tuple[int, int]]) -> float:
    """Of chunks (tokens, tokens before them): states where they are read or written, and the inputs and open rows before and behind."""
    of_open_row = 2 * (shape.channels - shape.queries) + 8 * shape.value_heads
    total = 0.0
    for tokens, before in chunks:
        borders = (before % SPAN + tokens) // SPAN
        total += 4 * shape.state_numbers * ((before > 0) + (borders > 0))
        total += of_open_row * (before % SPAN + min(tokens, (before + tokens) % SPAN))
        total += 2 * shape.history_numbers * ((before > 0) + 1)
    return total


def tensor_bytes(part: object) -> int:
    """Bytes of all tensors in a part of a model."""
    if isinstance(part, torch.Tensor):
        return part.numel() * part.element_size()
    if isinstance(part, tuple):
        return sum(map(tensor_bytes, part))
    if dataclasses.is_dataclass(part):
        return sum(tensor_bytes(getattr(part, field.name)) for field in dataclasses.fields(part))
    return 0

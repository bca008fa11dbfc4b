"""The parameters of a decoder: allocated once, each part filled by one checkpoint tensor."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from octavo.config.quantization import KvFormat
from octavo.models.config import ModelConfig
from octavo.models.placing import ParameterMaker, Place, Sources
from octavo.ops.delta_net import DeltaShape, DeltaWeights
from octavo.ops.experts import MAX_TOP_K, ChoosingRule, ExpertWeights, RoutingRule, SharedRule
from octavo.ops.formats import Bf16, LinearWeight
from octavo.ops.prepare_qkv import HeadNorms, WidthNorms


@dataclasses.dataclass(frozen=True)
class AttentionParameters:
    """Projections to and from attention."""

    qkv: LinearWeight
    """((heads + 2 KV heads) * D, H): query rows, key rows, value rows."""
    norms: HeadNorms | WidthNorms | None
    """None: queries and keys are only rotated."""
    out: LinearWeight
    """(H, heads * D)"""
    kv_scales: tuple[torch.Tensor, torch.Tensor] | None = None
    """(1,) float32 of the codes of keys and of values; None: the cache holds no codes."""
    gated: bool = False
    """Whether each query head's D rows are followed by as many of a gate, by whose sigmoid its output is multiplied."""


@dataclasses.dataclass(frozen=True)
class DeltaNetParameters:
    """Gated DeltaNet and the projections to and from it."""

    shape: DeltaShape
    qkvz: LinearWeight
    """(2 K + 2 V, H): queries, keys, values and output gates; K and V are the numbers of all key and of all value heads."""
    write_decay: LinearWeight
    """(2 value heads, H): what decides how much is written, and how fast a state decays."""
    grouped: bool
    """Whether the rows of both lie by key head, each with its value heads behind it, and not by what they are."""
    weights: DeltaWeights
    norm: torch.Tensor
    """(value_dim,) bf16, of each head's output."""
    out: LinearWeight
    """(H, V)"""


Mixer = AttentionParameters | DeltaNetParameters
"""What lets a row see those before it."""


@dataclasses.dataclass(frozen=True)
class DenseMlp:
    """gate_up (2I, H), gate rows first; down (H, I)."""

    gate_up: LinearWeight
    down: LinearWeight


@dataclasses.dataclass(frozen=True)
class SharedExpert:
    """An MLP that every row takes, weighted by the sigmoid of its gate (1, H) if it has one."""

    mlp: DenseMlp
    gate: LinearWeight | None = None


@dataclasses.dataclass(frozen=True)
class SparseMlp:
    """The router, the experts' stacked weights, and how experts are chosen."""

    router: LinearWeight | torch.Tensor
    """(L, H), as many logits as the rule has for E experts; a tensor is float32."""
    experts: ExpertWeights
    """By the rule perhaps with one behind the others that all rows share."""
    rule: RoutingRule
    shared: SharedExpert | None = None
    """One that does not stand among `experts`."""


@dataclasses.dataclass(frozen=True)
class LayerParameters:
    """One decoder layer; norms are (H,) bf16."""

    input_norm: torch.Tensor
    mixer: Mixer
    post_norm: torch.Tensor
    mlp: DenseMlp | SparseMlp


@dataclasses.dataclass(frozen=True)
class DecoderParameters:
    """All parameters of a model, on one device."""

    embedding: torch.Tensor
    """(V, H) bf16"""
    layers: tuple[LayerParameters, ...]
    norm: torch.Tensor
    """(H,) bf16"""
    head: LinearWeight
    """(V, H); shares the embedding's memory if the config ties them."""
    num_bytes: int
    """Of all parameters."""
    find_sources: Callable[[], Sources]
    offset_norms: bool = False
    """Whether norms of hidden states, queries and keys are stored as what they differ from one."""

    @functools.cached_property
    def sources(self) -> Sources:
        """All parameters, by the tensors of a checkpoint that fill them."""
        return self.find_sources()


def kind_of(part: object) -> object:
    """What a part has in common with all that are computed by the same kernels: its formats and settings, and dtypes and shapes of its tensors."""
    if isinstance(part, torch.Tensor):
        return part.dtype, part.shape
    if isinstance(part, tuple):
        return tuple(kind_of(each) for each in part)
    if dataclasses.is_dataclass(part):
        return type(part), *(kind_of(getattr(part, field.name)) for field in dataclasses.fields(part))
    return part


Part = TypeVar("Part", covariant=True)


class PlacePart(Protocol[Part]):
    """How a family places a part of a layer: given the checkpoint module of the layer, and its number."""

    def __call__(self, make: ParameterMaker, name: str, layer: int) -> Part: ...


def place_decoder(
    config: ModelConfig,
    place: Place,
    mixer: PlacePart[Mixer],
    mlp: PlacePart[DenseMlp | SparseMlp],
    *,
    offset_norms: bool = False,
    module: str = "model",
) -> DecoderParameters:
    """The parameters of `config` in `place`: embedding, head and norms, and what `mixer` and `mlp` make of each layer.

    All but the head are in the checkpoint's `module`.

    Raises:
        CheckpointError: the config quantizes one of two layers that are computed together and not the other.
    """
    make = ParameterMaker(place, config.quantization)

    def layer(number: int) -> LayerParameters:
        name = f"{module}.layers.{number}"
        return LayerParameters(
            input_norm=make.vector(f"{name}.input_layernorm.weight", config.hidden_size),
            mixer=mixer(make, name, number),
            post_norm=make.vector(f"{name}.post_attention_layernorm.weight", config.hidden_size),
            mlp=mlp(make, name, number),
        )

    embedding = make.matrix(f"{module}.embed_tokens.weight", config.vocab_size, config.hidden_size)
    layers = tuple(layer(number) for number in range(config.num_hidden_layers))
    norm = make.vector(f"{module}.norm.weight", config.hidden_size)
    head: LinearWeight = Bf16(embedding)
    if not config.tie_word_embeddings:
        head = make.linear([("lm_head", config.vocab_size)], config.hidden_size)
    return DecoderParameters(embedding, layers, norm, head, make.num_bytes, make.sources, offset_norms)


def place_attention(
    make: ParameterMaker,
    config: ModelConfig,
    name: str,
    *,
    bias: bool = False,
    out_bias: bool = False,
    norms: type[HeadNorms] | type[WidthNorms] | None = None,
    gated: bool = False,
) -> AttentionParameters:
    """Grouped-query attention as the checkpoint module `name` holds it.

    Args:
        bias: whether the projections to queries, keys and values have biases.
        out_bias: whether the projection back has one.
        norms: how queries and keys are normed, if they are.
        gated: whether the projection to queries gives a gate beside each head.
    """
    width, heads, kv_heads = config.head_dim, config.num_attention_heads, config.num_key_value_heads
    rows = {"q": heads * width, "k": kv_heads * width, "v": kv_heads * width}
    stored = rows | {"q": 2 * rows["q"]} if gated else rows
    qkv = make.linear([(f"{name}.{part}_proj", count) for part, count in stored.items()], config.hidden_size, bias=bias)
    of_queries_and_keys = None
    if norms is not None:
        sizes = (width, width) if norms is HeadNorms else (rows["q"], rows["k"])
        queries, keys = (make.vector(f"{name}.{part}_norm.weight", n) for part, n in zip("qk", sizes, strict=True))
        of_queries_and_keys = norms(queries, keys, config.rms_norm_eps)
    out = make.linear([(f"{name}.o_proj", config.hidden_size)], rows["q"], bias=out_bias)
    scales = None
    if make.kv_format is KvFormat.FP8:
        scales = make.single(f"{name}.k_scale"), make.single(f"{name}.v_scale")
    return AttentionParameters(qkv, of_queries_and_keys, out, scales, gated)


def place_mlp(make: ParameterMaker, name: str, *, hidden: int, width: int) -> DenseMlp:
    """A dense MLP of `width` as the checkpoint module `name` holds it."""
    return DenseMlp(
        gate_up=make.linear([(f"{name}.gate_proj", width), (f"{name}.up_proj", width)], hidden),
        down=make.linear([(f"{name}.down_proj", hidden)], width),
    )


@dataclasses.dataclass(frozen=True)
class SharedModule:
    """Where a checkpoint has the expert that all rows share."""

    name: str
    width: int
    gate: str | None = None
    """The layer (1, H) by the sigmoid of which it is weighted, if it is."""


def place_sparse_mlp(
    make: ParameterMaker,
    name: str,
    *,
    hidden: int,
    width: int,
    experts: int,
    rule: ChoosingRule,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    float_router: bool = False,
    shared: SharedModule | None = None,
) -> SparseMlp:
    """Experts of `width` and their router as the checkpoint module `name` holds them.

    A shared expert that is as wide as the others and stored like them is one of them, and its gate a row of the router.

    Args:
        rule: how experts are chosen.
        names: of an expert's gate, up and down.
        float_router: whether a checkpoint may hold the router in float32, all of which counts.
        shared: the expert that all rows share, whose parts have the same names.
    """
    gate, up, down = names
    modules, router = [f"{name}.experts.{expert}" for expert in range(experts)], [(f"{name}.gate", experts)]
    joined, apart = None, shared
    if shared is not None and rule.top_k < MAX_TOP_K and _stands_among(make, shared, modules[0], names, width):
        gates = [] if shared.gate is None else [(shared.gate, 1)]
        if not gates or (not float_router and make.can_join(router + gates)):
            joined, apart = shared, None
            modules.append(shared.name)
            router += gates
    return SparseMlp(
        router=make.float_linear(f"{name}.gate", experts, hidden) if float_router else make.linear(router, hidden),
        experts=ExpertWeights(
            gate_up=make.stack(modules, [(gate, width), (up, width)], hidden),
            down=make.stack(modules, [(down, hidden)], width),
        ),
        rule=rule if joined is None else SharedRule(rule, joined.gate is not None),
        shared=None if apart is None else _shared_expert(make, apart, hidden),
    )


def _stands_among(make: ParameterMaker, shared: SharedModule, expert: str, names: tuple[str, ...], width: int) -> bool:
    """Whether the shared expert is as wide as those like `expert`, and each of its parts stored like theirs."""
    return shared.width == width and all(
        make.can_stack([f"{expert}.{name}", f"{shared.name}.{name}"]) for name in names
    )


def _shared_expert(make: ParameterMaker, shared: SharedModule, hidden: int) -> SharedExpert:
    """The shared expert by itself."""
    mlp = place_mlp(make, shared.name, hidden=hidden, width=shared.width)
    return SharedExpert(mlp, None if shared.gate is None else make.linear([(shared.gate, 1)], hidden))

"""The parameters of a decoder: allocated once, each part filled by one checkpoint tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from octavo.models.config import ModelConfig
from octavo.models.placing import ParameterMaker, Place
from octavo.ops.experts import ExpertWeights
from octavo.ops.formats import Bf16, LinearWeight
from octavo.ops.prepare_qkv import HeadNorms


@dataclasses.dataclass(frozen=True)
class WidthNorms:
    """Weights of norms over all query heads (Q D,) and all key heads (G D,) of a row, bf16."""

    queries: torch.Tensor
    keys: torch.Tensor


@dataclasses.dataclass(frozen=True)
class AttentionParameters:
    """Projections to and from attention."""

    qkv: LinearWeight
    """((heads + 2 KV heads) * D, H): query rows, key rows, value rows."""
    head_norms: HeadNorms | None
    """None: queries and keys are only rotated."""
    out: LinearWeight
    """(H, heads * D)"""
    width_norms: WidthNorms | None = None
    """What comes before the norms of heads, if anything does."""


@dataclasses.dataclass(frozen=True)
class DenseMlp:
    """gate_up (2I, H), gate rows first; down (H, I)."""

    gate_up: LinearWeight
    down: LinearWeight


@dataclasses.dataclass(frozen=True)
class SharedExpert:
    """An MLP that every row takes, weighted by the sigmoid of its gate (1, H)."""

    mlp: DenseMlp
    gate: LinearWeight


@dataclasses.dataclass(frozen=True)
class SparseMlp:
    """router (E, H) bf16 or FP8; the experts' stacked weights; how experts are chosen."""

    router: LinearWeight
    experts: ExpertWeights
    top_k: int
    renormalize: bool
    """Whether the weights of the chosen experts sum to one: the same as a softmax over the chosen alone."""
    shared: SharedExpert | None = None


@dataclasses.dataclass(frozen=True)
class LayerParameters:
    """One decoder layer; norms are (H,) bf16."""

    input_norm: torch.Tensor
    attention: AttentionParameters
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
    sources: dict[str, torch.Tensor]
    """Name of each checkpoint tensor -> the view of the parameters it fills, in the tensor's own shape."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all parameters."""
        return sum(view.numel() * view.element_size() for view in self.sources.values())


def place_decoder(
    config: ModelConfig, place: Place, layer: Callable[[ParameterMaker, int], LayerParameters]
) -> DecoderParameters:
    """The parameters of `config` in `place`, each layer's by `layer`.

    Raises:
        CheckpointError: the config quantizes one of two layers that are computed together and not the other.
    """
    make = ParameterMaker(place, config.quantization)
    embedding = make.matrix("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
    layers = tuple(layer(make, number) for number in range(config.num_hidden_layers))
    norm = make.vector("model.norm.weight", config.hidden_size)
    head: LinearWeight = Bf16(embedding)
    if not config.tie_word_embeddings:
        head = make.linear([("lm_head", config.vocab_size)], config.hidden_size)
    return DecoderParameters(embedding, layers, norm, head, make.sources)


def place_attention(
    make: ParameterMaker,
    config: ModelConfig,
    name: str,
    *,
    bias: bool = False,
    out_bias: bool = False,
    head_norms: bool = False,
    width_norms: bool = False,
) -> AttentionParameters:
    """Grouped-query attention as the checkpoint module `name` holds it.

    Args:
        bias: whether the projections to queries, keys and values have biases.
        out_bias: whether the projection back has one.
        head_norms: whether queries and keys are normed, head by head.
        width_norms: whether they are normed over all their heads at once.
    """
    width, heads = config.head_dim, config.num_attention_heads
    rows = {"q": heads, "k": config.num_key_value_heads, "v": config.num_key_value_heads}
    parts = [(f"{name}.{part}_proj", count * width) for part, count in rows.items()]
    return AttentionParameters(
        qkv=make.linear(parts, config.hidden_size, bias=bias),
        head_norms=(
            HeadNorms(
                make.vector(f"{name}.q_norm.weight", width),
                make.vector(f"{name}.k_norm.weight", width),
                config.rms_norm_eps,
            )
            if head_norms
            else None
        ),
        out=make.linear([(f"{name}.o_proj", config.hidden_size)], heads * width, bias=out_bias),
        width_norms=(
            WidthNorms(
                make.vector(f"{name}.q_norm.weight", heads * width),
                make.vector(f"{name}.k_norm.weight", config.num_key_value_heads * width),
            )
            if width_norms
            else None
        ),
    )


def place_mlp(make: ParameterMaker, name: str, *, hidden: int, width: int) -> DenseMlp:
    """A dense MLP of `width` as the checkpoint module `name` holds it."""
    return DenseMlp(
        gate_up=make.linear([(f"{name}.gate_proj", width), (f"{name}.up_proj", width)], hidden),
        down=make.linear([(f"{name}.down_proj", hidden)], width),
    )


def place_sparse_mlp(
    make: ParameterMaker,
    name: str,
    *,
    hidden: int,
    width: int,
    experts: int,
    top_k: int,
    renormalize: bool,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> SparseMlp:
    """Experts of `width` and their router as the checkpoint module `name` holds them.

    Args:
        names: of an expert's gate, up and down.
    """
    gate, up, down = names
    return SparseMlp(
        router=make.linear([(f"{name}.gate", experts)], hidden),
        experts=ExpertWeights(
            gate_up=make.stack(f"{name}.experts", experts, [(gate, width), (up, width)], hidden),
            down=make.stack(f"{name}.experts", experts, [(down, hidden)], width),
        ),
        top_k=top_k,
        renormalize=renormalize,
    )

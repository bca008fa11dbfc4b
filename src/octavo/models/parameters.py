"""The parameters of Qwen3-MoE, allocated once, and the checkpoint tensor that each part of them comes from."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch

from octavo.config import ModelConfig
from octavo.errors import CheckpointError
from octavo.ops.activations import FP8
from octavo.ops.experts import ExpertWeights
from octavo.ops.formats import Bf16, Fp8Channel, LinearWeight


@dataclasses.dataclass(frozen=True)
class DenseMlp:
    """gate_up (2I, H), gate rows first; down (H, I)."""

    gate_up: LinearWeight
    down: LinearWeight


@dataclasses.dataclass(frozen=True)
class SparseMlp:
    """router (E, H) bf16 or FP8; the experts' stacked weights."""

    router: LinearWeight
    experts: ExpertWeights


@dataclasses.dataclass(frozen=True)
class LayerParameters:
    """One decoder layer; norms are bf16 vectors."""

    input_norm: torch.Tensor
    qkv: LinearWeight
    """((heads + 2 KV heads) * D, H): query rows, key rows, value rows."""
    q_norm: torch.Tensor
    k_norm: torch.Tensor
    out: LinearWeight
    """(H, heads * D)"""
    post_norm: torch.Tensor
    mlp: DenseMlp | SparseMlp


@dataclasses.dataclass(frozen=True)
class Parameters:
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


class Place(Protocol):
    """Where parameters lie: asked for one tensor after the other, always in the same order for a config."""

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous tensor; what is in it is the place's affair."""
        ...


class _Allocator:
    """Makes parameters in a place and notes which checkpoint tensor fills which part."""

    def __init__(self, config: ModelConfig, place: Place) -> None:
        self._config, self._empty = config, place
        self.sources: dict[str, torch.Tensor] = {}

    def vector(self, name: str, size: int) -> torch.Tensor:
        self.sources[name] = self._empty((size,), torch.bfloat16)
        return self.sources[name]

    def matrix(self, name: str, rows: int, columns: int) -> torch.Tensor:
        self.sources[name] = self._empty((rows, columns), torch.bfloat16)
        return self.sources[name]

    def linear(self, parts: list[tuple[str, int]], columns: int, *, bias: bool = False) -> LinearWeight:
        """The layers `parts` (module name, rows), which read the same input, one above the other."""
        rows = sum(count for _, count in parts)
        weight = self._weight([name for name, _ in parts], (rows, columns), bias=bias)
        start = 0
        for name, count in parts:
            self._note(name, weight, slice(start, start + count))
            start += count
        return weight

    def stack(self, layer: str, experts: int, parts: list[tuple[str, int]], columns: int) -> LinearWeight:
        """The layers `parts` of every expert, one above the other."""
        names = [f"{layer}.experts.{e}.{name}" for e in range(experts) for name, _ in parts]
        weight = self._weight(names, (experts, sum(count for _, count in parts), columns))
        for expert in range(experts):
            start = 0
            for name, count in parts:
                self._note(f"{layer}.experts.{expert}.{name}", weight.expert(expert), slice(start, start + count))
                start += count
        return weight

    def _weight(self, modules: list[str], shape: tuple[int, ...], *, bias: bool = False) -> LinearWeight:
        quantized = {self._config.is_quantized(module) for module in modules}
        if len(quantized) > 1:
            odd = next(m for m in modules if self._config.is_quantized(m) != self._config.is_quantized(modules[0]))
            raise CheckpointError(
                f"quantization_config ignores one of {modules[0]} and {odd} but not the other; they are computed "
                "together and must be stored alike",
                tensor=f"{odd}.weight",
            )
        biases = self._empty((shape[0],), torch.bfloat16) if bias else None
        if quantized == {False}:
            return Bf16(self._empty(shape, torch.bfloat16), biases)
        return Fp8Channel(self._empty(shape, FP8), self._empty(shape[:-1], torch.float32), biases)

    def _note(self, module: str, weight: LinearWeight, rows: slice) -> None:
        self.sources |= {f"{module}.{name}": view for name, view in weight.stored(rows).items()}


def allocate_parameters(config: ModelConfig, device: torch.device) -> Parameters:
    """Uninitialised parameters of `config` on `device`; `sources` says what to fill them with.

    Raises:
        CheckpointError: the config quantizes one of two layers that are computed together and not the other.
    """

    def empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    return place_parameters(config, empty)


def place_parameters(config: ModelConfig, place: Place) -> Parameters:
    """The parameters of `config` as they lie in `place`; `sources` says which checkpoint tensor belongs where.

    Raises:
        CheckpointError: as `allocate_parameters`.
    """
    make = _Allocator(config, place)
    embedding = make.matrix("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
    layers = tuple(_layer(make, config, layer) for layer in range(config.num_hidden_layers))
    norm = make.vector("model.norm.weight", config.hidden_size)
    head: LinearWeight = Bf16(embedding)
    if not config.tie_word_embeddings:
        head = make.linear([("lm_head", config.vocab_size)], config.hidden_size)
    return Parameters(embedding, layers, norm, head, make.sources)


def is_needless(config: ModelConfig, name: str) -> bool:
    """Whether a checkpoint may hold the tensor `name` although the model computes without it.

    Old writers store what follows from the config (frequencies of rotary embeddings), others a tied head a second time.
    """
    return name.endswith("rotary_emb.inv_freq") or (config.tie_word_embeddings and name == "lm_head.weight")


def _layer(make: _Allocator, config: ModelConfig, layer: int) -> LayerParameters:
    name = f"model.layers.{layer}"
    hidden, width = config.hidden_size, config.head_dim
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads, "v": config.num_key_value_heads}
    query_width = config.num_attention_heads * width
    return LayerParameters(
        input_norm=make.vector(f"{name}.input_layernorm.weight", hidden),
        qkv=make.linear(
            [(f"{name}.self_attn.{part}_proj", count * width) for part, count in heads.items()],
            hidden,
            bias=config.attention_bias,
        ),
        q_norm=make.vector(f"{name}.self_attn.q_norm.weight", width),
        k_norm=make.vector(f"{name}.self_attn.k_norm.weight", width),
        out=make.linear([(f"{name}.self_attn.o_proj", hidden)], query_width, bias=config.attention_bias),
        post_norm=make.vector(f"{name}.post_attention_layernorm.weight", hidden),
        mlp=_sparse(make, config, f"{name}.mlp") if config.is_sparse(layer) else _dense(make, config, f"{name}.mlp"),
    )


def _dense(make: _Allocator, config: ModelConfig, name: str) -> DenseMlp:
    width = config.intermediate_size
    return DenseMlp(
        gate_up=make.linear([(f"{name}.gate_proj", width), (f"{name}.up_proj", width)], config.hidden_size),
        down=make.linear([(f"{name}.down_proj", config.hidden_size)], width),
    )


def _sparse(make: _Allocator, config: ModelConfig, name: str) -> SparseMlp:
    experts, hidden, width = config.num_experts, config.hidden_size, config.moe_intermediate_size
    return SparseMlp(
        router=make.linear([(f"{name}.gate", experts)], hidden),
        experts=ExpertWeights(
            gate_up=make.stack(name, experts, [("gate_proj", width), ("up_proj", width)], hidden),
            down=make.stack(name, experts, [("down_proj", hidden)], width),
        ),
    )

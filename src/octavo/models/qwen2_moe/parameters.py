"""The parameters of Qwen2-MoE by their names in a checkpoint."""

from __future__ import annotations

import dataclasses
from functools import partial

from octavo.models.decoder.parameters import (
    DecoderParameters,
    LayerParameters,
    SharedExpert,
    SparseMlp,
    place_attention,
    place_decoder,
    place_mlp,
    place_sparse_mlp,
)
from octavo.models.placing import ParameterMaker, Place
from octavo.models.qwen2_moe.config import Qwen2MoeConfig


def place_parameters(config: Qwen2MoeConfig, place: Place) -> DecoderParameters:
    """See `ModelConfig.place_parameters`."""
    return place_decoder(config, place, partial(_layer, config))


def _layer(config: Qwen2MoeConfig, make: ParameterMaker, layer: int) -> LayerParameters:
    name = f"model.layers.{layer}"
    return LayerParameters(
        input_norm=make.vector(f"{name}.input_layernorm.weight", config.hidden_size),
        attention=place_attention(make, config, f"{name}.self_attn", bias=config.qkv_bias),
        post_norm=make.vector(f"{name}.post_attention_layernorm.weight", config.hidden_size),
        mlp=(
            _sparse(config, make, f"{name}.mlp")
            if config.is_sparse(layer)
            else place_mlp(make, f"{name}.mlp", hidden=config.hidden_size, width=config.intermediate_size)
        ),
    )


def _sparse(config: Qwen2MoeConfig, make: ParameterMaker, name: str) -> SparseMlp:
    hidden = config.hidden_size
    chosen = place_sparse_mlp(
        make,
        name,
        hidden=hidden,
        width=config.moe_intermediate_size,
        experts=config.num_experts,
        top_k=config.num_experts_per_tok,
        renormalize=config.norm_topk_prob,
    )
    mlp = place_mlp(make, f"{name}.shared_expert", hidden=hidden, width=config.shared_expert_intermediate_size)
    shared = SharedExpert(mlp, make.linear([(f"{name}.shared_expert_gate", 1)], hidden))
    return dataclasses.replace(chosen, shared=shared)

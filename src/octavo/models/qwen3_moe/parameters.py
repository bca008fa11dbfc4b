"""The parameters of Qwen3-MoE by their names in a checkpoint."""

from __future__ import annotations

from functools import partial

from octavo.models.decoder.parameters import (
    DecoderParameters,
    LayerParameters,
    place_attention,
    place_decoder,
    place_mlp,
    place_sparse_mlp,
)
from octavo.models.placing import ParameterMaker, Place
from octavo.models.qwen3_moe.config import Qwen3MoeConfig


def place_parameters(config: Qwen3MoeConfig, place: Place) -> DecoderParameters:
    """See `ModelConfig.place_parameters`."""
    return place_decoder(config, place, partial(_layer, config))


def _layer(config: Qwen3MoeConfig, make: ParameterMaker, layer: int) -> LayerParameters:
    name = f"model.layers.{layer}"
    return LayerParameters(
        input_norm=make.vector(f"{name}.input_layernorm.weight", config.hidden_size),
        attention=place_attention(
            make,
            config,
            f"{name}.self_attn",
            bias=config.attention_bias,
            out_bias=config.attention_bias,
            head_norms=True,
        ),
        post_norm=make.vector(f"{name}.post_attention_layernorm.weight", config.hidden_size),
        mlp=(
            place_sparse_mlp(
                make,
                f"{name}.mlp",
                hidden=config.hidden_size,
                width=config.moe_intermediate_size,
                experts=config.num_experts,
                top_k=config.num_experts_per_tok,
                renormalize=config.norm_topk_prob,
            )
            if config.is_sparse(layer)
            else place_mlp(make, f"{name}.mlp", hidden=config.hidden_size, width=config.intermediate_size)
        ),
    )

"""The parameters of OLMoE by their names in a checkpoint."""

from __future__ import annotations

from functools import partial

from octavo.models.decoder.parameters import (
    DecoderParameters,
    LayerParameters,
    place_attention,
    place_decoder,
    place_sparse_mlp,
)
from octavo.models.olmoe.config import OlmoeConfig
from octavo.models.placing import ParameterMaker, Place


def place_parameters(config: OlmoeConfig, place: Place) -> DecoderParameters:
    """See `ModelConfig.place_parameters`."""
    return place_decoder(config, place, partial(_layer, config))


def _layer(config: OlmoeConfig, make: ParameterMaker, layer: int) -> LayerParameters:
    name = f"model.layers.{layer}"
    return LayerParameters(
        input_norm=make.vector(f"{name}.input_layernorm.weight", config.hidden_size),
        attention=place_attention(
            make,
            config,
            f"{name}.self_attn",
            bias=config.attention_bias,
            out_bias=config.attention_bias,
            width_norms=True,
        ),
        post_norm=make.vector(f"{name}.post_attention_layernorm.weight", config.hidden_size),
        mlp=place_sparse_mlp(
            make,
            f"{name}.mlp",
            hidden=config.hidden_size,
            width=config.intermediate_size,
            experts=config.num_experts,
            top_k=config.num_experts_per_tok,
            renormalize=config.norm_topk_prob,
        ),
    )

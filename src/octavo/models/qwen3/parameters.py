"""The parameters of Qwen3 by their names in a checkpoint."""

from __future__ import annotations

from functools import partial

from octavo.models.decoder.parameters import (
    DecoderParameters,
    LayerParameters,
    place_attention,
    place_decoder,
    place_mlp,
)
from octavo.models.placing import ParameterMaker, Place
from octavo.models.qwen3.config import Qwen3Config


def place_parameters(config: Qwen3Config, place: Place) -> DecoderParameters:
    """See `ModelConfig.place_parameters`."""
    return place_decoder(config, place, partial(_layer, config))


def _layer(config: Qwen3Config, make: ParameterMaker, layer: int) -> LayerParameters:
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
        mlp=place_mlp(make, f"{name}.mlp", hidden=config.hidden_size, width=config.intermediate_size),
    )

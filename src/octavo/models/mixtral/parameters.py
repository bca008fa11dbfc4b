"""The parameters of Mixtral by their names in a checkpoint: w1 is the gate, w3 up, w2 down."""

from __future__ import annotations

from functools import partial

from octavo.models.decoder.parameters import (
    DecoderParameters,
    LayerParameters,
    place_attention,
    place_decoder,
    place_sparse_mlp,
)
from octavo.models.mixtral.config import MixtralConfig
from octavo.models.placing import ParameterMaker, Place


def place_parameters(config: MixtralConfig, place: Place) -> DecoderParameters:
    """See `ModelConfig.place_parameters`."""
    return place_decoder(config, place, partial(_layer, config))


def _layer(config: MixtralConfig, make: ParameterMaker, layer: int) -> LayerParameters:
    name = f"model.layers.{layer}"
    return LayerParameters(
        input_norm=make.vector(f"{name}.input_layernorm.weight", config.hidden_size),
        attention=place_attention(make, config, f"{name}.self_attn"),
        post_norm=make.vector(f"{name}.post_attention_layernorm.weight", config.hidden_size),
        mlp=place_sparse_mlp(
            make,
            f"{name}.block_sparse_moe",
            hidden=config.hidden_size,
            width=config.intermediate_size,
            experts=config.num_local_experts,
            top_k=config.num_experts_per_tok,
            renormalize=True,
            names=("w1", "w3", "w2"),
        ),
    )

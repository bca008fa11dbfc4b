"""The parameters of Mixtral by their names in a checkpoint: w1 is the gate, w3 up, w2 down."""

from __future__ import annotations

from octavo.models.decoder.parameters import (
    AttentionParameters,
    DecoderParameters,
    SparseMlp,
    place_attention,
    place_decoder,
    place_sparse_mlp,
)
from octavo.models.mixtral.config import MixtralConfig
from octavo.models.placing import ParameterMaker, Place
from octavo.ops.experts import SoftmaxRule


def place_parameters(config: MixtralConfig, place: Place) -> DecoderParameters:
    """See `ModelConfig.place_parameters`."""

    def attention(make: ParameterMaker, name: str, layer: int) -> AttentionParameters:
        return place_attention(make, config, f"{name}.self_attn")

    def mlp(make: ParameterMaker, name: str, layer: int) -> SparseMlp:
        return place_sparse_mlp(
            make,
            f"{name}.block_sparse_moe",
            hidden=config.hidden_size,
            width=config.intermediate_size,
            experts=config.num_local_experts,
            rule=SoftmaxRule(config.num_experts_per_tok, True),
            names=("w1", "w3", "w2"),
        )

    return place_decoder(config, place, attention, mlp)

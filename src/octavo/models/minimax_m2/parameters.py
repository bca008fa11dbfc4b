"""The parameters of MiniMax-M2 by their names in a checkpoint: w1 is the gate, w3 up, w2 down."""

from __future__ import annotations

from octavo.models.decoder.parameters import (
    AttentionParameters,
    DecoderParameters,
    SparseMlp,
    place_attention,
    place_decoder,
    place_sparse_mlp,
)
from octavo.models.minimax_m2.config import MiniMaxM2Config
from octavo.models.placing import ParameterMaker, Place
from octavo.ops.experts import SigmoidRule
from octavo.ops.prepare_qkv import WidthNorms


def place_parameters(config: MiniMaxM2Config, place: Place) -> DecoderParameters:
    """See `ModelConfig.place_parameters`."""

    def attention(make: ParameterMaker, name: str, layer: int) -> AttentionParameters:
        return place_attention(make, config, f"{name}.self_attn", norms=WidthNorms)

    def mlp(make: ParameterMaker, name: str, layer: int) -> SparseMlp:
        experts = f"{name}.block_sparse_moe"
        bias = make.float_vector(f"{experts}.e_score_correction_bias", config.num_local_experts)
        return place_sparse_mlp(
            make,
            experts,
            hidden=config.hidden_size,
            width=config.intermediate_size,
            experts=config.num_local_experts,
            rule=SigmoidRule(config.num_experts_per_tok, True, bias),
            names=("w1", "w3", "w2"),
            float_router=True,
        )

    return place_decoder(config, place, attention, mlp)

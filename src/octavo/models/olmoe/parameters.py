"""The parameters of OLMoE by their names in a checkpoint."""

from __future__ import annotations

from octavo.models.decoder.parameters import (
    AttentionParameters,
    DecoderParameters,
    SparseMlp,
    place_attention,
    place_decoder,
    place_sparse_mlp,
)
from octavo.models.olmoe.config import OlmoeConfig
from octavo.models.placing import ParameterMaker, Place
from octavo.ops.experts import SoftmaxRule
from octavo.ops.prepare_qkv import WidthNorms


def place_parameters(config: OlmoeConfig, place: Place) -> DecoderParameters:
    """See `ModelConfig.place_parameters`."""

    def attention(make: ParameterMaker, name: str, layer: int) -> AttentionParameters:
        bias = config.attention_bias
        return place_attention(make, config, f"{name}.self_attn", bias=bias, out_bias=bias, norms=WidthNorms)

    def mlp(make: ParameterMaker, name: str, layer: int) -> SparseMlp:
        return place_sparse_mlp(
            make,
            f"{name}.mlp",
            hidden=config.hidden_size,
            width=config.intermediate_size,
            experts=config.num_experts,
            rule=SoftmaxRule(config.num_experts_per_tok, config.norm_topk_prob),
        )

    return place_decoder(config, place, attention, mlp)

"""The parameters of Qwen2-MoE by their names in a checkpoint."""

from __future__ import annotations

from octavo.models.decoder.parameters import (
    AttentionParameters,
    DecoderParameters,
    DenseMlp,
    SparseMlp,
    place_attention,
    place_decoder,
)
from octavo.models.placing import ParameterMaker, Place
from octavo.models.qwen2_moe.config import Qwen2MoeConfig
from octavo.models.qwen_moe.parameters import place_qwen_mlp


def place_parameters(config: Qwen2MoeConfig, place: Place) -> DecoderParameters:
    """See `ModelConfig.place_parameters`."""

    def attention(make: ParameterMaker, name: str, layer: int) -> AttentionParameters:
        return place_attention(make, config, f"{name}.self_attn", bias=config.qkv_bias)

    def mlp(make: ParameterMaker, name: str, layer: int) -> DenseMlp | SparseMlp:
        width = config.shared_expert_intermediate_size
        return place_qwen_mlp(config, make, f"{name}.mlp", layer, shared_width=width)

    return place_decoder(config, place, attention, mlp)

"""The parameters of Qwen3-MoE by their names in a checkpoint."""

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
from octavo.models.qwen3_moe.config import Qwen3MoeConfig
from octavo.models.qwen_moe.parameters import place_qwen_mlp
from octavo.ops.prepare_qkv import HeadNorms


def place_parameters(config: Qwen3MoeConfig, place: Place) -> DecoderParameters:
    """See `ModelConfig.place_parameters`."""

    def attention(make: ParameterMaker, name: str, layer: int) -> AttentionParameters:
        bias = config.attention_bias
        return place_attention(make, config, f"{name}.self_attn", bias=bias, out_bias=bias, norms=HeadNorms)

    def mlp(make: ParameterMaker, name: str, layer: int) -> DenseMlp | SparseMlp:
        return place_qwen_mlp(config, make, f"{name}.mlp", layer)

    return place_decoder(config, place, attention, mlp)

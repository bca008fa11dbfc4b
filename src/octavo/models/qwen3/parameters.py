"""The parameters of Qwen3 by their names in a checkpoint."""

from __future__ import annotations

from octavo.models.decoder.parameters import (
    AttentionParameters,
    DecoderParameters,
    DenseMlp,
    place_attention,
    place_decoder,
    place_mlp,
)
from octavo.models.placing import ParameterMaker, Place
from octavo.models.qwen3.config import Qwen3Config
from octavo.ops.prepare_qkv import HeadNorms


def place_parameters(config: Qwen3Config, place: Place) -> DecoderParameters:
    """See `ModelConfig.place_parameters`."""

    def attention(make: ParameterMaker, name: str, layer: int) -> AttentionParameters:
        bias = config.attention_bias
        return place_attention(make, config, f"{name}.self_attn", bias=bias, out_bias=bias, norms=HeadNorms)

    def mlp(make: ParameterMaker, name: str, layer: int) -> DenseMlp:
        return place_mlp(make, f"{name}.mlp", hidden=config.hidden_size, width=config.intermediate_size)

    return place_decoder(config, place, attention, mlp)

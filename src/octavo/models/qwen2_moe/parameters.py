"""The parameters of Qwen2-MoE by their names in a checkpoint."""

from __future__ import annotations

import dataclasses

from octavo.models.decoder.parameters import (
    AttentionParameters,
    DecoderParameters,
    DenseMlp,
    SharedExpert,
    SparseMlp,
    place_attention,
    place_decoder,
    place_mlp,
)
from octavo.models.placing import ParameterMaker, Place
from octavo.models.qwen2_moe.config import Qwen2MoeConfig
from octavo.models.qwen_moe.parameters import place_qwen_mlp


def place_parameters(config: Qwen2MoeConfig, place: Place) -> DecoderParameters:
    """See `ModelConfig.place_parameters`."""
    hidden, shared_width = config.hidden_size, config.shared_expert_intermediate_size

    def attention(make: ParameterMaker, name: str, layer: int) -> AttentionParameters:
        return place_attention(make, config, f"{name}.self_attn", bias=config.qkv_bias)

    def mlp(make: ParameterMaker, name: str, layer: int) -> DenseMlp | SparseMlp:
        chosen = place_qwen_mlp(config, make, f"{name}.mlp", layer)
        if isinstance(chosen, DenseMlp):
            return chosen
        shared = place_mlp(make, f"{name}.mlp.shared_expert", hidden=hidden, width=shared_width)
        gate = make.linear([(f"{name}.mlp.shared_expert_gate", 1)], hidden)
        return dataclasses.replace(chosen, shared=SharedExpert(shared, gate))

    return place_decoder(config, place, attention, mlp)

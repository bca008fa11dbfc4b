"""OLMoE as its `config.json` states it; defaults are those of Hugging Face's `OlmoeConfig`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from octavo.config.json_fields import JsonFields
from octavo.models.config import ModelConfig, check_experts, read_decoder

if TYPE_CHECKING:
    from octavo.models.decoder.parameters import DecoderParameters
    from octavo.models.placing import Place


@dataclasses.dataclass(frozen=True, kw_only=True)
class OlmoeConfig(ModelConfig):
    """Attention with norms over all query heads and over all key heads; every layer has experts."""

    architecture: ClassVar[str] = "OlmoeForCausalLM"
    model_type: ClassVar[str] = "olmoe"

    intermediate_size: int
    """Of each expert."""
    num_experts: int
    num_experts_per_tok: int
    norm_topk_prob: bool
    attention_bias: bool

    @classmethod
    def read(cls, fields: JsonFields) -> OlmoeConfig:
        """See `ModelConfig`."""
        fields.require("clip_qkv", None, None)
        experts, chosen = fields.count("num_experts", 64), fields.count("num_experts_per_tok", 8)
        check_experts(fields, chosen, experts)
        return cls(
            **read_decoder(fields, rope_theta=1e4, rms_norm_eps=1e-5),
            intermediate_size=fields.count("intermediate_size"),
            num_experts=experts,
            num_experts_per_tok=chosen,
            norm_topk_prob=fields.flag("norm_topk_prob"),
            attention_bias=fields.flag("attention_bias"),
        )

    def place_parameters(self, place: Place) -> DecoderParameters:
        """See `ModelConfig`."""
        from octavo.models.olmoe.parameters import place_parameters

        return place_parameters(self, place)

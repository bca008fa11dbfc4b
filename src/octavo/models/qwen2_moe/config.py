"""Qwen2-MoE as its `config.json` states it; defaults are those of Hugging Face's `Qwen2MoeConfig`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from octavo.config.json_fields import JsonFields
from octavo.models.qwen_moe.config import QwenMoeConfig, read_qwen_moe

if TYPE_CHECKING:
    from octavo.models.decoder.parameters import DecoderParameters
    from octavo.models.placing import Place


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen2MoeConfig(QwenMoeConfig):
    """Attention without q/k norms; layers have experts beside one that all rows share, or one dense MLP."""

    architecture: ClassVar[str] = "Qwen2MoeForCausalLM"
    model_type: ClassVar[str] = "qwen2_moe"

    shared_expert_intermediate_size: int
    qkv_bias: bool

    @classmethod
    def read(cls, fields: JsonFields) -> Qwen2MoeConfig:
        """See `ModelConfig`."""
        return cls(
            **read_qwen_moe(fields, experts=60, chosen=4),
            shared_expert_intermediate_size=fields.count("shared_expert_intermediate_size"),
            qkv_bias=fields.flag("qkv_bias", True),
        )

    def place_parameters(self, place: Place) -> DecoderParameters:
        """See `ModelConfig`."""
        from octavo.models.qwen2_moe.parameters import place_parameters

        return place_parameters(self, place)

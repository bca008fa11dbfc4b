"""Qwen3-MoE as its `config.json` states it; defaults are those of Hugging Face's `Qwen3MoeConfig`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from octavo.config.json_fields import JsonFields
from octavo.models.qwen_moe.config import QwenMoeConfig, read_qwen_moe

if TYPE_CHECKING:
    from octavo.models.decoder.parameters import DecoderParameters
    from octavo.models.placing import Place


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen3MoeConfig(QwenMoeConfig):
    """Attention with q/k norms; layers have experts, or one dense MLP."""

    architecture: ClassVar[str] = "Qwen3MoeForCausalLM"
    model_type: ClassVar[str] = "qwen3_moe"

    attention_bias: bool

    @classmethod
    def read(cls, fields: JsonFields) -> Qwen3MoeConfig:
        """See `ModelConfig`."""
        return cls(
            **read_qwen_moe(fields, experts=fields.raw.get("num_local_experts")),
            attention_bias=fields.flag("attention_bias"),
        )

    def place_parameters(self, place: Place) -> DecoderParameters:
        """See `ModelConfig`."""
        from octavo.models.qwen3_moe.parameters import place_parameters

        return place_parameters(self, place)

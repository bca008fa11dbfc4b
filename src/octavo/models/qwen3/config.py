"""Qwen3 as its `config.json` states it; defaults are those of Hugging Face's `Qwen3Config`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from octavo.config.json_fields import JsonFields
from octavo.models.config import ModelConfig, read_decoder

if TYPE_CHECKING:
    from octavo.models.decoder.parameters import DecoderParameters
    from octavo.models.placing import Place


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen3Config(ModelConfig):
    """Attention with q/k norms and dense MLPs."""

    architecture: ClassVar[str] = "Qwen3ForCausalLM"
    model_type: ClassVar[str] = "qwen3"

    intermediate_size: int
    attention_bias: bool

    @classmethod
    def read(cls, fields: JsonFields) -> Qwen3Config:
        """See `ModelConfig`."""
        fields.require("use_sliding_window", False, False)
        return cls(
            **read_decoder(fields, rope_theta=1e4, rms_norm_eps=1e-6, head_dim=128),
            intermediate_size=fields.count("intermediate_size"),
            attention_bias=fields.flag("attention_bias"),
        )

    def place_parameters(self, place: Place) -> DecoderParameters:
        """See `ModelConfig`."""
        from octavo.models.qwen3.parameters import place_parameters

        return place_parameters(self, place)

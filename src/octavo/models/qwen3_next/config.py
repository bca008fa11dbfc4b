"""Qwen3-Next as its `config.json` states it; defaults are those of Hugging Face's `Qwen3NextConfig`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from octavo.config.json_fields import JsonFields
from octavo.models.qwen_hybrid.config import QwenHybridConfig, read_qwen_hybrid

if TYPE_CHECKING:
    from octavo.models.decoder.parameters import DecoderParameters
    from octavo.models.placing import Place


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen3NextConfig(QwenHybridConfig):
    """Queries, keys, values and gates of Gated DeltaNet come from one projection, by key head."""

    architecture: ClassVar[str] = "Qwen3NextForCausalLM"
    model_type: ClassVar[str] = "qwen3_next"

    @classmethod
    def read(cls, fields: JsonFields) -> Qwen3NextConfig:
        """See `ModelConfig`."""
        return cls(**read_qwen_hybrid(fields, experts=512, chosen=10))

    def place_parameters(self, place: Place) -> DecoderParameters:
        """See `ModelConfig`."""
        from octavo.models.qwen3_next.parameters import place_parameters

        return place_parameters(self, place)

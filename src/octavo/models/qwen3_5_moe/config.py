"""The text of Qwen3.5-MoE and Qwen3.6-MoE as `config.json` states it; defaults are those of `Qwen3_5MoeTextConfig`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Self

from octavo.config.json_fields import JsonFields
from octavo.models.qwen_hybrid.config import QwenHybridConfig, read_qwen_hybrid

if TYPE_CHECKING:
    from octavo.models.decoder.parameters import DecoderParameters
    from octavo.models.placing import Place


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen35MoeTextConfig(QwenHybridConfig):
    """The decoder by itself. Queries, keys and values of Gated DeltaNet come from one projection, gates from another."""

    architecture: ClassVar[str] = "Qwen3_5MoeForCausalLM"
    model_type: ClassVar[str] = "qwen3_5_moe_text"

    @classmethod
    def read(cls, fields: JsonFields) -> Self:
        """See `ModelConfig`."""
        fields.require("attn_output_gate", True, True)
        fields.require("output_gate_type", "swish", "swish")
        fields.require("mamba_ssm_dtype", "float32", "float32")
        fields.require("norm_topk_prob", True, True)
        fields.require("decoder_sparse_step", 1, 1)
        fields.require("mlp_only_layers", [], [])
        # no layer has a dense MLP, whose width some state and others do not
        raw = {"intermediate_size": 1, "moe_intermediate_size": 512} | fields.raw
        for rope in ("rope_parameters", "rope_scaling"):
            if isinstance(stated := raw.get(rope), dict):
                # which positions turn which angles: those of text are one number, however it is dealt out
                raw[rope] = {name: stated[name] for name in stated if not name.startswith("mrope_")}
        return cls(**read_qwen_hybrid(JsonFields(raw, fields.file), experts=256, chosen=8))

    def place_parameters(self, place: Place) -> DecoderParameters:
        """See `ModelConfig`."""
        from octavo.models.qwen3_5_moe.parameters import place_parameters

        return place_parameters(self, place)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen35MoeConfig(Qwen35MoeTextConfig):
    """The decoder within a model that sees; what sees is left out."""

    architecture: ClassVar[str] = "Qwen3_5MoeForConditionalGeneration"
    model_type: ClassVar[str] = "qwen3_5_moe"
    module: ClassVar[str] = "model.language_model"

    @classmethod
    def read(cls, fields: JsonFields) -> Self:
        """See `ModelConfig`; what the decoder's own object states has precedence."""
        text: Any = fields.raw.get("text_config")
        if not isinstance(text, dict):
            raise fields.refuse(f"text_config must be an object, is {text!r}")
        outer = {name: fields.raw[name] for name in fields.raw if name not in ("text_config", "vision_config")}
        return super().read(JsonFields(outer | text, fields.file))

    def is_needless(self, name: str) -> bool:
        """See `ModelConfig`."""
        return name.startswith("model.visual.") or super().is_needless(name)

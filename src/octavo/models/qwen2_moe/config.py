"""Qwen2-MoE as its `config.json` states it; defaults are those of Hugging Face's `Qwen2MoeConfig`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from octavo.config.json_fields import JsonFields
from octavo.models.config import ModelConfig, check_experts, is_sparse, read_decoder

if TYPE_CHECKING:
    from octavo.models.decoder.parameters import DecoderParameters
    from octavo.models.placing import Place


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen2MoeConfig(ModelConfig):
    """Attention without q/k norms; layers have experts beside one that all rows share, or one dense MLP."""

    architecture: ClassVar[str] = "Qwen2MoeForCausalLM"
    model_type: ClassVar[str] = "qwen2_moe"

    intermediate_size: int
    """Of dense MLPs."""
    moe_intermediate_size: int
    shared_expert_intermediate_size: int
    num_experts: int
    num_experts_per_tok: int
    norm_topk_prob: bool
    decoder_sparse_step: int
    mlp_only_layers: tuple[int, ...]
    qkv_bias: bool

    @classmethod
    def read(cls, fields: JsonFields) -> Qwen2MoeConfig:
        """See `ModelConfig`."""
        fields.require("use_sliding_window", False, False)
        experts, chosen = fields.count("num_experts", 60, least=0), fields.count("num_experts_per_tok", 4)
        check_experts(fields, chosen, experts)
        return cls(
            **read_decoder(fields, rope_theta=1e4, rms_norm_eps=1e-6),
            intermediate_size=fields.count("intermediate_size"),
            moe_intermediate_size=fields.count("moe_intermediate_size"),
            shared_expert_intermediate_size=fields.count("shared_expert_intermediate_size"),
            num_experts=experts,
            num_experts_per_tok=chosen,
            norm_topk_prob=fields.flag("norm_topk_prob"),
            decoder_sparse_step=fields.count("decoder_sparse_step", 1),
            mlp_only_layers=fields.integers("mlp_only_layers"),
            qkv_bias=fields.flag("qkv_bias", True),
        )

    def is_sparse(self, layer: int) -> bool:
        """Whether `layer` has experts."""
        return is_sparse(layer, self.num_experts, self.decoder_sparse_step, self.mlp_only_layers)

    def place_parameters(self, place: Place) -> DecoderParameters:
        """See `ModelConfig`."""
        from octavo.models.qwen2_moe.parameters import place_parameters

        return place_parameters(self, place)

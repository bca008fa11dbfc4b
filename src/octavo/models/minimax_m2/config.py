"""MiniMax-M2 as its `config.json` states it; defaults are those of Hugging Face's `MiniMaxM2Config`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from octavo.config.json_fields import JsonFields
from octavo.models.config import ModelConfig, check_experts, read_decoder

if TYPE_CHECKING:
    from octavo.models.decoder.parameters import DecoderParameters
    from octavo.models.placing import Place


@dataclasses.dataclass(frozen=True, kw_only=True)
class MiniMaxM2Config(ModelConfig):
    """Attention with norms over all heads that turns a part of each; every layer has experts."""

    architecture: ClassVar[str] = "MiniMaxM2ForCausalLM"
    model_type: ClassVar[str] = "minimax_m2"

    intermediate_size: int
    """Of each expert."""
    num_local_experts: int
    num_experts_per_tok: int

    @classmethod
    def read(cls, fields: JsonFields) -> MiniMaxM2Config:
        """See `ModelConfig`."""
        for name, served in (
            ("scoring_func", "sigmoid"),
            ("use_routing_bias", True),
            ("use_qk_norm", True),
            ("qk_norm_type", "per_layer"),
            ("shared_intermediate_size", 0),
        ):
            fields.require(name, served, served)
        if any(kind != 1 for kind in fields.integers("attn_type_list")):
            raise fields.refuse("attn_type_list: a layer without full attention (1) is not served")
        head_dim = fields.count("head_dim", 128)
        experts = fields.count("num_local_experts", fields.raw.get("num_experts", 256))
        chosen = fields.count("num_experts_per_tok", 8)
        check_experts(fields, chosen, experts)
        share = fields.count("rotary_dim", head_dim) / head_dim
        return cls(
            **read_decoder(fields, rope_theta=5e6, rms_norm_eps=1e-6, head_dim=head_dim, rotary_share=share),
            num_mtp_layers=fields.count("num_mtp_modules", 0, least=0),
            intermediate_size=fields.count("intermediate_size"),
            num_local_experts=experts,
            num_experts_per_tok=chosen,
        )

    def place_parameters(self, place: Place) -> DecoderParameters:
        """See `ModelConfig`."""
        from octavo.models.minimax_m2.parameters import place_parameters

        return place_parameters(self, place)

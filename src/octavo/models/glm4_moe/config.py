"""GLM-4.5's MoE models as their `config.json` states them; defaults are those of Hugging Face's `Glm4MoeConfig`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from octavo.config.json_fields import JsonFields
from octavo.models.config import ModelConfig, check_experts, read_decoder

if TYPE_CHECKING:
    from octavo.models.decoder.parameters import DecoderParameters
    from octavo.models.placing import Place


@dataclasses.dataclass(frozen=True, kw_only=True)
class Glm4MoeConfig(ModelConfig):
    """Attention that turns a part of each head; dense MLPs, then experts beside one that all rows share."""

    architecture: ClassVar[str] = "Glm4MoeForCausalLM"
    model_type: ClassVar[str] = "glm4_moe"

    intermediate_size: int
    """Of dense MLPs."""
    moe_intermediate_size: int
    n_routed_experts: int
    n_shared_experts: int
    """How many times as wide as an expert the shared one is."""
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    routed_scaling_factor: float
    norm_topk_prob: bool
    first_k_dense_replace: int
    """How many first layers have dense MLPs."""
    use_qk_norm: bool
    attention_bias: bool

    @classmethod
    def read(cls, fields: JsonFields) -> Glm4MoeConfig:
        """See `ModelConfig`."""
        fields.require("scoring_func", "sigmoid", "sigmoid")
        fields.require("topk_method", "noaux_tc", "noaux_tc")
        experts = fields.count("n_routed_experts", fields.raw.get("num_local_experts", 128))
        chosen = fields.count("num_experts_per_tok", 8)
        groups, kept = fields.count("n_group", 1), fields.count("topk_group", 1)
        check_experts(fields, chosen, experts)
        _check_groups(fields, experts, chosen, groups, kept)
        return cls(
            **read_decoder(fields, rope_theta=1e4, rms_norm_eps=1e-5, rotary_share=0.5),
            num_mtp_layers=fields.count("num_nextn_predict_layers", fields.raw.get("num_mtp_layers", 1), least=0),
            intermediate_size=fields.count("intermediate_size"),
            moe_intermediate_size=fields.count("moe_intermediate_size"),
            n_routed_experts=experts,
            n_shared_experts=fields.count("n_shared_experts", 1, least=0),
            num_experts_per_tok=chosen,
            n_group=groups,
            topk_group=kept,
            routed_scaling_factor=fields.number("routed_scaling_factor", 1.0),
            norm_topk_prob=fields.flag("norm_topk_prob", True),
            first_k_dense_replace=fields.count("first_k_dense_replace", 1, least=0),
            use_qk_norm=fields.flag("use_qk_norm"),
            attention_bias=fields.flag("attention_bias"),
        )

    def place_parameters(self, place: Place) -> DecoderParameters:
        """See `ModelConfig`."""
        from octavo.models.glm4_moe.parameters import place_parameters

        return place_parameters(self, place)


def _check_groups(fields: JsonFields, experts: int, chosen: int, groups: int, kept: int) -> None:
    """Refuse groups that are not alike, hold one expert, or too few of them."""
    if kept > groups:
        raise fields.refuse(f"topk_group {kept} must not exceed n_group {groups}")
    if groups > 1 and (experts % groups or experts // groups < 2):
        raise fields.refuse(
            f"n_group {groups} must part n_routed_experts {experts} into groups of at least two, all alike"
        )
    if chosen > kept * (experts // groups):
        raise fields.refuse(
            f"topk_group {kept} of n_group {groups} hold fewer than num_experts_per_tok {chosen} experts"
        )

"""Mixtral as its `config.json` states it; defaults are those of Hugging Face's `MixtralConfig`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from octavo.config.json_fields import JsonFields
from octavo.models.config import ModelConfig, check_experts, read_decoder

if TYPE_CHECKING:
    from octavo.models.decoder.parameters import DecoderParameters
    from octavo.models.placing import Place


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtralConfig(ModelConfig):
    """Attention without q/k norms; every layer has experts, weighted by a softmax over the chosen ones."""

    architecture: ClassVar[str] = "MixtralForCausalLM"
    model_type: ClassVar[str] = "mixtral"

    intermediate_size: int
    """Of each expert."""
    num_local_experts: int
    num_experts_per_tok: int

    @classmethod
    def read(cls, fields: JsonFields) -> MixtralConfig:
        """See `ModelConfig`."""
        decoder = read_decoder(fields, rope_theta=1e6, rms_norm_eps=1e-5)
        positions = decoder["max_position_embeddings"]
        if (window := fields.count("sliding_window", positions)) < positions:
            raise fields.refuse(
                f"sliding_window {window} is not served; full attention over {positions} positions (null) is"
            )
        experts, chosen = fields.count("num_local_experts", 8), fields.count("num_experts_per_tok", 2)
        check_experts(fields, chosen, experts)
        return cls(
            **decoder,
            intermediate_size=fields.count("intermediate_size"),
            num_local_experts=experts,
            num_experts_per_tok=chosen,
        )

    def place_parameters(self, place: Place) -> DecoderParameters:
        """See `ModelConfig`."""
        from octavo.models.mixtral.parameters import place_parameters

        return place_parameters(self, place)

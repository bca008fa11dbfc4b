"""The parameters of GLM-4.5's MoE models by their names in a checkpoint."""

from __future__ import annotations

from octavo.models.decoder.parameters import (
    AttentionParameters,
    DecoderParameters,
    DenseMlp,
    SharedModule,
    SparseMlp,
    place_attention,
    place_decoder,
    place_mlp,
    place_sparse_mlp,
)
from octavo.models.glm4_moe.config import Glm4MoeConfig
from octavo.models.placing import ParameterMaker, Place
from octavo.ops.experts import SigmoidRule
from octavo.ops.prepare_qkv import HeadNorms


def place_parameters(config: Glm4MoeConfig, place: Place) -> DecoderParameters:
    """See `ModelConfig.place_parameters`."""
    hidden = config.hidden_size

    def attention(make: ParameterMaker, name: str, layer: int) -> AttentionParameters:
        norms = HeadNorms if config.use_qk_norm else None
        return place_attention(make, config, f"{name}.self_attn", bias=config.attention_bias, norms=norms)

    def mlp(make: ParameterMaker, name: str, layer: int) -> DenseMlp | SparseMlp:
        if layer < config.first_k_dense_replace:
            return place_mlp(make, f"{name}.mlp", hidden=hidden, width=config.intermediate_size)
        return _sparse(config, make, f"{name}.mlp")

    return place_decoder(config, place, attention, mlp)


def _sparse(config: Glm4MoeConfig, make: ParameterMaker, name: str) -> SparseMlp:
    rule = SigmoidRule(
        top_k=config.num_experts_per_tok,
        renormalize=config.norm_topk_prob,
        bias=make.float_vector(f"{name}.gate.e_score_correction_bias", config.n_routed_experts),
        groups=config.n_group,
        kept=config.topk_group,
        scale=config.routed_scaling_factor,
    )
    width = config.n_shared_experts * config.moe_intermediate_size
    return place_sparse_mlp(
        make,
        name,
        hidden=config.hidden_size,
        width=config.moe_intermediate_size,
        experts=config.n_routed_experts,
        rule=rule,
        float_router=True,
        shared=SharedModule(f"{name}.shared_experts", width) if width else None,
    )

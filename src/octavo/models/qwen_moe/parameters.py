"""The MLPs of Qwen's MoE models by their names in a checkpoint."""

from __future__ import annotations

import dataclasses

from octavo.models.decoder.parameters import DenseMlp, SharedExpert, SparseMlp, place_mlp, place_sparse_mlp
from octavo.models.placing import ParameterMaker
from octavo.models.qwen_moe.config import QwenMoeConfig
from octavo.ops.experts import SoftmaxRule


def place_qwen_mlp(config: QwenMoeConfig, make: ParameterMaker, name: str, layer: int) -> DenseMlp | SparseMlp:
    """The experts of `layer`, or its dense MLP, as the checkpoint module `name` holds them."""
    if not config.is_sparse(layer):
        return place_mlp(make, name, hidden=config.hidden_size, width=config.intermediate_size)
    return place_sparse_mlp(
        make,
        name,
        hidden=config.hidden_size,
        width=config.moe_intermediate_size,
        experts=config.num_experts,
        rule=SoftmaxRule(config.num_experts_per_tok, config.norm_topk_prob),
    )


def place_qwen_shared_mlp(
    config: QwenMoeConfig, make: ParameterMaker, name: str, layer: int, *, shared_width: int
) -> DenseMlp | SparseMlp:
    """The same, the experts beside one of `shared_width` that all rows share, weighted by a gate."""
    chosen = place_qwen_mlp(config, make, name, layer)
    if isinstance(chosen, DenseMlp):
        return chosen
    shared = place_mlp(make, f"{name}.shared_expert", hidden=config.hidden_size, width=shared_width)
    gate = make.linear([(f"{name}.shared_expert_gate", 1)], config.hidden_size)
    return dataclasses.replace(chosen, shared=SharedExpert(shared, gate))

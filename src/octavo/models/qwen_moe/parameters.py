"""The MLPs of Qwen's MoE models by their names in a checkpoint."""

from __future__ import annotations

from octavo.models.decoder.parameters import DenseMlp, SharedModule, SparseMlp, place_mlp, place_sparse_mlp
from octavo.models.placing import ParameterMaker
from octavo.models.qwen_moe.config import QwenMoeConfig
from octavo.ops.experts import SoftmaxRule


def place_qwen_mlp(
    config: QwenMoeConfig, make: ParameterMaker, name: str, layer: int, *, shared_width: int | None = None
) -> DenseMlp | SparseMlp:
    """The experts of `layer`, or its dense MLP, as the checkpoint module `name` holds them.

    Args:
        shared_width: of the expert that all rows share, weighted by a gate, if there is one.
    """
    if not config.is_sparse(layer):
        return place_mlp(make, name, hidden=config.hidden_size, width=config.intermediate_size)
    shared = None
    if shared_width is not None:
        shared = SharedModule(f"{name}.shared_expert", shared_width, f"{name}.shared_expert_gate")
    return place_sparse_mlp(
        make,
        name,
        hidden=config.hidden_size,
        width=config.moe_intermediate_size,
        experts=config.num_experts,
        rule=SoftmaxRule(config.num_experts_per_tok, config.norm_topk_prob),
        shared=shared,
    )

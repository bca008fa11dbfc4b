"""What the MoE models of Qwen's generations 2 and 3 state alike; not a family of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

from octavo.config.json_fields import JsonFields
from octavo.models.config import ModelConfig, check_experts, read_decoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class QwenMoeConfig(ModelConfig):
    """Layers with experts, and layers with one dense MLP."""

    intermediate_size: int
    """Of dense MLPs."""
    moe_intermediate_size: int
    num_experts: int
    num_experts_per_tok: int
    norm_topk_prob: bool
    decoder_sparse_step: int
    """Each so-many-th layer has experts, unless `mlp_only_layers` names it."""
    mlp_only_layers: tuple[int, ...]

    def is_sparse(self, layer: int) -> bool:
        """Whether `layer` has experts."""
        if layer in self.mlp_only_layers or self.num_experts == 0:
            return False
        return (layer + 1) % self.decoder_sparse_step == 0


def read_qwen_moe(
    fields: JsonFields,
    *,
    experts: int | None = None,
    chosen: int | None = None,
    norm_topk_prob: bool = False,
    **decoder: Any,
) -> dict[str, Any]:
    """What both generations state, as arguments of `QwenMoeConfig`; the numbers are the family's defaults.

    `decoder` is passed on to `read_decoder`.

    Raises:
        CheckpointError: as `ModelConfig.read`.
    """
    fields.require("use_sliding_window", False, False)
    num_experts = fields.count("num_experts", experts, least=0)
    top_k = fields.count("num_experts_per_tok", chosen)
    check_experts(fields, top_k, num_experts)
    return read_decoder(fields, rope_theta=1e4, rms_norm_eps=1e-6, **decoder) | {
        "intermediate_size": fields.count("intermediate_size"),
        "moe_intermediate_size": fields.count("moe_intermediate_size"),
        "num_experts": num_experts,
        "num_experts_per_tok": top_k,
        "norm_topk_prob": fields.flag("norm_topk_prob", norm_topk_prob),
        "decoder_sparse_step": fields.count("decoder_sparse_step", 1),
        "mlp_only_layers": fields.integers("mlp_only_layers"),
    }

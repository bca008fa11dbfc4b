"""The parameters of Qwen3.5-MoE by their names in a checkpoint."""

from __future__ import annotations

from octavo.models.decoder.parameters import DecoderParameters
from octavo.models.placing import Place
from octavo.models.qwen3_5_moe.config import Qwen35MoeTextConfig
from octavo.models.qwen_hybrid.parameters import place_hybrid


def place_parameters(config: Qwen35MoeTextConfig, place: Place) -> DecoderParameters:
    """See `ModelConfig.place_parameters`."""
    return place_hybrid(
        config,
        place,
        qkvz=("in_proj_qkv", "in_proj_z"),
        write_decay=("in_proj_b", "in_proj_a"),
        module=config.module,
    )

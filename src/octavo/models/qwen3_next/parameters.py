"""The parameters of Qwen3-Next by their names in a checkpoint."""

from __future__ import annotations

from octavo.models.decoder.parameters import DecoderParameters
from octavo.models.placing import Place
from octavo.models.qwen3_next.config import Qwen3NextConfig
from octavo.models.qwen_hybrid.parameters import place_hybrid


def place_parameters(config: Qwen3NextConfig, place: Place) -> DecoderParameters:
    """See `ModelConfig.place_parameters`."""
    return place_hybrid(config, place, qkvz=("in_proj_qkvz",), write_decay=("in_proj_ba",))

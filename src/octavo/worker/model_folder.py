"""The config of the model that a worker is told to load."""

from __future__ import annotations

from pathlib import Path

from octavo.config.format_choice import FormatChoice
from octavo.messages import WorkerConfig
from octavo.models.config import ModelConfig
from octavo.models.registry import read_folder


def read_model(config: WorkerConfig) -> ModelConfig:
    """What the model's folder says, as the user wants it.

    Raises:
        CheckpointError, ConfigError: as `read_folder`.
    """
    choice = FormatChoice(config.kv_cache_dtype, config.quantization)
    return read_folder(Path(config.model), config.hf_overrides, choice)

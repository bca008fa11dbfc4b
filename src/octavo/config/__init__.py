"""Settings of the user, shape of the model, limits of the engine. No tensors."""

from octavo.config.engine import EngineConfig
from octavo.config.model import ModelConfig, WeightFormat
from octavo.config.settings import Settings

__all__ = ["EngineConfig", "ModelConfig", "Settings", "WeightFormat"]

"""Settings of the user, shape of the model, limits of the engine. No tensors."""

from octavo.config.engine import EngineConfig
from octavo.config.facts import ModelFacts
from octavo.config.quantization import KvFormat, WeightFormat
from octavo.config.settings import Settings

__all__ = ["EngineConfig", "KvFormat", "ModelFacts", "Settings", "WeightFormat"]

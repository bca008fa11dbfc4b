"""From a model folder to a model on a device."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import torch

from octavo.checkpoints.bf16 import Bf16Format
from octavo.checkpoints.compressed_tensors import CompressedTensorsFormat
from octavo.checkpoints.dummy import fill_dummy
from octavo.checkpoints.safetensors import Format, fill_from_folder
from octavo.config import ModelConfig, WeightFormat
from octavo.errors import ConfigError
from octavo.models.operations import CpuOperations, Operations
from octavo.models.parameters import Parameters, allocate_parameters, is_needless
from octavo.models.qwen3_moe import Qwen3Moe

FORMATS: dict[WeightFormat, Format] = {
    WeightFormat.BF16: Bf16Format(),
    WeightFormat.FP8_DYNAMIC: CompressedTensorsFormat(),
}


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model ready to run."""

    model: Qwen3Moe
    config: ModelConfig
    weight_bytes: int
    """Bytes of the parameters as stored."""
    format: WeightFormat


def load_model(
    folder: Path,
    *,
    load_format: str,
    device: torch.device,
    seed: int,
    operations: Operations | None = None,
    progress: bool = True,
) -> LoadedModel:
    """Read `folder/config.json` and fill the parameters.

    Args:
        folder: a Hugging Face model folder.
        load_format: `auto` and `safetensors` read the safetensors files; `dummy` makes random weights from config.json alone.
        device: where the parameters live and the model runs.
        seed: of dummy weights.
        operations: what the model is computed with on `device`; None for a CPU's, which is an error elsewhere.
        progress: whether to show a bar on standard error.

    Raises:
        CheckpointError: a file is missing or does not hold what the config asks for; names tensor, file and shapes.
        ConfigError: `load_format` is none of these.
        ValueError: no `operations` for a device that is no CPU.
    """
    if operations is None and device.type != "cpu":
        raise ValueError(
            f"operations: say what computes on {device}, such as KernelOperations; there is no default but a CPU's"
        )
    config = ModelConfig.from_folder(folder)
    parameters = allocate_parameters(config, device)
    fill_parameters(parameters, config, folder, load_format=load_format, seed=seed, progress=progress)
    return build_model(config, parameters, operations or CpuOperations())


def fill_parameters(
    parameters: Parameters, config: ModelConfig, folder: Path, *, load_format: str, seed: int, progress: bool = True
) -> None:
    """Write the weights of `folder`, or random ones, into `parameters`; arguments and Raises as `load_model`."""
    if load_format not in ("auto", "safetensors", "dummy"):
        raise ConfigError("load_format", f"must be auto, safetensors or dummy, is {load_format!r}")
    if load_format == "dummy":
        fill_dummy(parameters.sources, seed=seed, progress=progress)
    else:
        stored, needless = FORMATS[config.weight_format], partial(is_needless, config)
        fill_from_folder(folder, parameters.sources, stored, needless=needless, progress=progress)


def build_model(config: ModelConfig, parameters: Parameters, operations: Operations) -> LoadedModel:
    """The model that computes with `parameters`, which are not copied, by `operations`."""
    model = Qwen3Moe(config, parameters, operations)
    return LoadedModel(model, config, parameters.num_bytes, config.weight_format)

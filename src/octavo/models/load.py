"""From a model folder to a model on a device."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from octavo.checkpoints.bf16 import Bf16Format
from octavo.checkpoints.dummy import fill_dummy
from octavo.checkpoints.fp8 import Fp8Format, TensorFp8Format
from octavo.checkpoints.online_fp8 import OnlineFp8Format
from octavo.checkpoints.safetensors import Format, fill_from_folder
from octavo.config import WeightFormat
from octavo.config.format_choice import AS_STATED, FormatChoice
from octavo.errors import ConfigError
from octavo.models.config import ModelConfig
from octavo.models.cpu_operations import CpuOperations
from octavo.models.decoder.model import Decoder
from octavo.models.decoder.parameters import DecoderParameters
from octavo.models.operations import Operations
from octavo.models.placing import fresh_memory
from octavo.models.registry import read_folder

FORMATS: dict[WeightFormat, Format] = {
    WeightFormat.BF16: Bf16Format(),
    WeightFormat.FP8_DYNAMIC: Fp8Format(),
    WeightFormat.FP8_ONLINE: OnlineFp8Format(),
    WeightFormat.FP8_TENSOR: TensorFp8Format(),
    WeightFormat.FP8_STATIC: TensorFp8Format(),
    WeightFormat.FP8_BLOCK: Fp8Format(zeros=True),
}


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model ready to run."""

    model: Decoder
    config: ModelConfig
    weight_bytes: int
    """Bytes of the parameters as stored."""


def load_model(
    folder: Path,
    *,
    load_format: str,
    device: torch.device,
    seed: int,
    operations: Operations | None = None,
    progress: bool = True,
    choice: FormatChoice = AS_STATED,
) -> LoadedModel:
    """Read `folder/config.json` and fill the parameters.

    Args:
        folder: a Hugging Face model folder.
        load_format: `auto` and `safetensors` read the safetensors files; `dummy` makes random weights from config.json alone.
        device: where the parameters live and the model runs.
        seed: of dummy weights.
        operations: what the model is computed with on `device`; None for a CPU's, which is an error elsewhere.
        progress: whether to show a bar on standard error.
        choice: what the user says of formats.

    Raises:
        CheckpointError: a file is missing or does not hold what the config asks for; names tensor, file and shapes.
        ConfigError: `load_format` is none of these.
        ValueError: no `operations` for a device that is no CPU.
    """
    if operations is None and device.type != "cpu":
        raise ValueError(
            f"operations: say what computes on {device}, such as CudaOperations; there is no default but a CPU's"
        )
    config = read_folder(folder, choice=choice)
    parameters = config.place_parameters(fresh_memory(device))
    fill_parameters(parameters, config, folder, load_format=load_format, seed=seed, progress=progress)
    return build_model(config, parameters, operations or CpuOperations(), config.max_position_embeddings)


def fill_parameters(
    parameters: DecoderParameters,
    config: ModelConfig,
    folder: Path,
    *,
    load_format: str,
    seed: int,
    progress: bool = True,
) -> None:
    """Write the weights of `folder`, or random ones, into `parameters`; arguments and Raises as `load_model`."""
    if load_format not in ("auto", "safetensors", "dummy"):
        raise ConfigError("load_format", f"must be auto, safetensors or dummy, is {load_format!r}")
    if load_format == "dummy":
        fill_dummy(parameters.sources, seed=seed, progress=progress)
    else:
        stored = FORMATS[config.quantization.format]
        fill_from_folder(
            folder, parameters.sources, stored, needless=config.is_needless, copies=config.copies, progress=progress
        )


def build_model(
    config: ModelConfig, parameters: DecoderParameters, operations: Operations, positions: int
) -> LoadedModel:
    """The model that computes requests of up to `positions` tokens with `parameters`, which are not copied, by `operations`."""
    return LoadedModel(config.build(parameters, operations, positions), config, parameters.num_bytes)

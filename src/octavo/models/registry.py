"""The families that are served, by architecture, and the reading of a model's config."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from octavo.config.format_choice import AS_STATED, FormatChoice
from octavo.config.json_fields import JsonFields, read_fields
from octavo.config.json_file import read_json_object
from octavo.config.quantization import SERVED, read_quantization
from octavo.errors import CheckpointError
from octavo.models.config import ModelConfig
from octavo.models.glm4_moe.config import Glm4MoeConfig
from octavo.models.minimax_m2.config import MiniMaxM2Config
from octavo.models.mixtral.config import MixtralConfig
from octavo.models.olmoe.config import OlmoeConfig
from octavo.models.qwen2_moe.config import Qwen2MoeConfig
from octavo.models.qwen3.config import Qwen3Config
from octavo.models.qwen3_5_moe.config import Qwen35MoeConfig, Qwen35MoeTextConfig
from octavo.models.qwen3_moe.config import Qwen3MoeConfig
from octavo.models.qwen3_next.config import Qwen3NextConfig

FAMILIES: dict[str, type[ModelConfig]] = {
    family.architecture: family
    for family in (
        Qwen3MoeConfig,
        Qwen3Config,
        Qwen2MoeConfig,
        Qwen3NextConfig,
        Qwen35MoeTextConfig,
        Qwen35MoeConfig,
        MixtralConfig,
        OlmoeConfig,
        Glm4MoeConfig,
        MiniMaxM2Config,
    )
}


INNER = "text_config"
"""The object in a config.json that is the decoder's own config."""


def read_folder(
    folder: Path, overrides: Mapping[str, Any] | None = None, choice: FormatChoice = AS_STATED
) -> ModelConfig:
    """Read `folder/config.json`, and the eos ids of `folder/generation_config.json` if there is one.

    Args:
        folder: of a model.
        overrides: fields instead of those in config.json, and of its `text_config` instead of those in that; what is None is left out.
        choice: what the user says of formats.

    Raises:
        ConfigError: that is not what the folder holds.
        CheckpointError: a file is missing or not a JSON object, or states something that is not served.
    """
    path = folder / "config.json"
    raw = _overridden(read_json_object(path), overrides or {})
    raw = _with_format(folder, raw)
    config = read_config(raw, file=str(path))
    config = dataclasses.replace(config, quantization=choice.apply(config.quantization))
    generation = folder / "generation_config.json"
    if not generation.exists():
        return config
    fields = read_fields(read_json_object(generation), str(generation))
    ids = dict.fromkeys(config.eos_token_ids + fields.token_ids("eos_token_id", config.vocab_size))
    return dataclasses.replace(config, eos_token_ids=tuple(ids))


def _overridden(stated: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`stated` with the fields of `overrides` in the place of its own; `text_config`, which is a config, keeps the others of its own."""
    inner, others = stated.get(INNER), overrides.get(INNER)
    raw = stated | dict(overrides)
    return raw | {INNER: inner | others} if isinstance(inner, dict) and isinstance(others, dict) else raw


def _with_format(folder: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """`raw` with the format of weights that stands beside a config.json that does not state it."""
    beside = folder / "hf_quant_config.json"
    if raw.get("quantization_config", raw.get("compression_config")) is None and beside.exists():
        stated = read_json_object(beside).get("quantization")
        if not isinstance(stated, dict):
            raise read_fields({}, str(beside)).refuse(f"quantization must be an object, is {stated!r}")
        format_of_modelopt = {"quantization_config": stated | {"quant_method": "modelopt"}}
        read_quantization(read_fields(format_of_modelopt, str(beside)))  # whose errors name this file
        raw = raw | format_of_modelopt
    if any(folder.glob("*.gguf")) and not any(folder.glob("*.safetensors")):
        raise read_fields({}, str(folder)).refuse(f"GGUF is not served; safetensors are: {SERVED}")
    return raw


def idle_overrides(folder: Path, overrides: Mapping[str, Any]) -> list[str]:
    """The names of those `overrides` that state something else than `folder/config.json` and change nothing that is read.

    Raises:
        CheckpointError: as `read_folder`.
    """
    stated, whole = read_json_object(folder / "config.json"), read_folder(folder, overrides)

    def is_idle(others: dict[str, Any]) -> bool:
        try:
            return (
                _overridden(stated, others) != _overridden(stated, overrides) and read_folder(folder, others) == whole
            )
        except CheckpointError:
            return False  # without it the model is not even served

    return [name for name, others in _each_left_out(overrides) if is_idle(others)]


def _each_left_out(overrides: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of each field, and all others; those of `text_config` one by one."""
    for name, value in overrides.items():
        others = {other: overrides[other] for other in overrides if other != name}
        if name != INNER or not isinstance(value, dict) or not value:
            yield name, others
            continue
        for inner in value:
            yield f"{name}.{inner}", others | {name: {other: value[other] for other in value if other != inner}}


def read_config(raw: dict[str, Any], *, file: str = "config.json") -> ModelConfig:
    """The config that the parsed `raw` states, of the family that it names.

    Raises:
        CheckpointError: its family is not served, or as `ModelConfig.read`.
    """
    fields = read_fields(raw, file)
    return find_family(fields).read(fields)


def find_family(fields: JsonFields) -> type[ModelConfig]:
    """The family of `architectures`, or of `model_type` where there are none; both must name the same.

    Raises:
        CheckpointError: it is not served.
    """
    named, model_type = fields.raw.get("architectures"), fields.raw.get("model_type")
    inner = fields.raw.get(INNER)
    is_mla = any(isinstance(raw, dict) and raw.get("kv_lora_rank") is not None for raw in (fields.raw, inner))
    mla = " (multi-head latent attention, MLA)" if is_mla else ""
    for family in FAMILIES.values() if named or model_type else ():
        if (named or [family.architecture]) == [family.architecture] and model_type in (family.model_type, None):
            return family
    raise fields.refuse(
        f"architecture {named!r} (model_type {model_type!r}){mla} is not served; {' and '.join(sorted(FAMILIES))} are"
    )


def encode_config(config: ModelConfig) -> bytes:
    """`config` as JSON that `decode_config` reads in another process."""
    return msgspec.json.encode({"architecture": config.architecture, "config": config})


def decode_config(encoded: bytes) -> ModelConfig:
    """What `encode_config` was given."""
    stated = json.loads(encoded)
    return msgspec.convert(stated["config"], type=FAMILIES[stated["architecture"]])

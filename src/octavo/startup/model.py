"""What is known of a model without its weights, read from its small files."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octavo.checkpoints.folder import TEXT_PATTERNS, Hub, resolve_folder
from octavo.config import ModelFacts, Settings, WeightFormat
from octavo.config.format_choice import AS_STATED, FormatChoice
from octavo.errors import ConfigError
from octavo.models.registry import idle_overrides, read_folder
from octavo.text import (
    ChatTemplate,
    DefaultSampling,
    Tokenizer,
    load_chat_template,
    load_default_sampling,
    load_tokenizer,
)

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Model:
    """Holds what is known of a model without its weights."""

    folder: Path
    facts: ModelFacts
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    default_sampling: DefaultSampling


def load_model(settings: Settings) -> Model:
    """Read the small files of the model: configuration, tokenizer, chat template, default sampling.

    Raises:
        ConfigError, CheckpointError: as `start`.
    """
    hub = Hub(settings.download_dir, settings.hf_token)
    folder = resolve_folder(settings.model, settings.revision, hub)
    texts = folder
    if settings.tokenizer is not None or settings.tokenizer_revision is not None:
        name = settings.tokenizer or settings.model
        texts = resolve_folder(name, settings.tokenizer_revision, hub, patterns=TEXT_PATTERNS)
        _check_holds("tokenizer", texts, "tokenizer.json")
    sampling_folder = {"auto": folder, "vllm": None}.get(settings.generation_config, Path(settings.generation_config))
    if sampling_folder not in (folder, None):
        _check_holds("generation_config", sampling_folder, "generation_config.json")
    facts = read_facts(folder, settings.hf_overrides, FormatChoice(settings.kv_cache_dtype, settings.quantization))
    check_dtype(settings.dtype, facts.weight_format)
    return Model(
        folder=folder,
        facts=facts,
        tokenizer=load_tokenizer(texts),
        chat_template=load_chat_template(
            texts,
            override=settings.chat_template,
            default_kwargs=settings.default_chat_template_kwargs,
            content_format=settings.chat_template_content_format,
        ),
        default_sampling=load_default_sampling(sampling_folder, settings.override_generation_config),
    )


def read_facts(
    folder: Path, overrides: Mapping[str, Any] | None = None, choice: FormatChoice = AS_STATED
) -> ModelFacts:
    """What `folder`'s config.json says of its model, with `overrides` instead of its own fields,
    and formats as the user says.

    Raises:
        CheckpointError: a file is missing or not a JSON object, or states something that is not served.
    """
    facts = read_folder(folder, overrides, choice).facts
    if idle := idle_overrides(folder, overrides or {}):
        log.warning("--hf-overrides: %s changes nothing that is read of this model's config", ", ".join(idle))
    return facts


def _check_holds(setting: str, folder: Path, file: str) -> None:
    """Raises ConfigError if the folder that a setting names is without what it is named for."""
    if not (folder / file).exists():
        raise ConfigError(setting, f"{folder} holds no {file}")


def check_dtype(dtype: str, weights: WeightFormat) -> None:
    """Say that float16 is not what an FP8 model is computed in, which it was not made for either.

    Raises:
        ConfigError: a bfloat16 model was to be computed in float16.
    """
    if dtype not in ("float16", "half"):
        return
    if weights is WeightFormat.BF16:
        raise ConfigError("dtype", f"is {dtype}, but models are computed in bfloat16, which these weights are in")
    log.warning("--dtype %s has no effect: models are computed in bfloat16, between products in FP8", dtype)

"""The sampling a request gets for fields it leaves out: the model's generation_config.json, as vLLM reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octavo.config.json_file import read_json_object
from octavo.errors import ConfigError, RequestError
from octavo.sampling import SamplingParams

FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")


@dataclasses.dataclass(frozen=True)
class DefaultSampling:
    """Values for fields that a request does not set."""

    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Field of `SamplingParams` to its default."""
    max_tokens: int | None = None
    """Most tokens of any answer (`max_new_tokens`); None: no bound of its own."""
    eos_token_ids: tuple[int, ...] = ()
    """Ids that end an answer, besides those of config.json."""


def load_default_sampling(folder: Path | None, override: Mapping[str, Any] | None = None) -> DefaultSampling:
    """Read `folder/generation_config.json` (None, or no such file: nothing) and lay `override` over it.

    Raises:
        CheckpointError: the file is not a JSON object.
        ConfigError: `override` names a field that is not a default, or a value cannot work.
    """
    raw = {name: value for name, value in _read(folder).items() if value is not None}
    unknown = set(override or ()) - {*FIELDS, "eos_token_id"}
    if unknown:
        raise ConfigError("override_generation_config", f"knows {', '.join(FIELDS)}, not {', '.join(sorted(unknown))}")
    raw.update(override or {})
    values = {name: raw[name] for name in FIELDS if name in raw}
    max_tokens = values.pop("max_new_tokens", None)
    try:
        SamplingParams(**values, max_tokens=max_tokens)
    except (RequestError, TypeError) as exc:
        raise ConfigError("generation_config", str(exc)) from exc
    told = raw.get("eos_token_id", [])
    eos = told if isinstance(told, list) else [told]
    if not all(isinstance(id_, int) and not isinstance(id_, bool) for id_ in eos):
        raise ConfigError("generation_config", f"eos_token_id must be a token id, or a list of them, got {told!r:.80}")
    return DefaultSampling(values, max_tokens, tuple(eos))


def _read(folder: Path | None) -> dict[str, Any]:
    path = folder / "generation_config.json" if folder is not None else None
    if path is None or not path.exists():
        return {}
    return read_json_object(path)

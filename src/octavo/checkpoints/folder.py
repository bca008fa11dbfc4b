"""Finds the folder of a model on this machine by the model's name."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from octavo.errors import CheckpointError, ConfigError

ASSETS = Path(str(files("octavo"))) / "assets"
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
TEXT_PATTERNS = ["*.json", "tokenizer*", "*.jinja", "merges.txt", "vocab.txt"]
"""What is downloaded for a tokenizer alone."""
PATTERNS = [*TEXT_PATTERNS, "*.safetensors"]
"""What is downloaded: no pickles, and no code."""

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Hub:
    """How models are downloaded."""

    folder: str | None = None
    """Where they are kept; None: as HF_HOME says."""
    token: str | None = dataclasses.field(default=None, repr=False)
    """Of Hugging Face; `true` for the one stored on this machine; None: the library's choice."""


USUAL_HUB = Hub()


def resolve_folder(
    model: str, revision: str | None, hub: Hub = USUAL_HUB, *, patterns: Sequence[str] = PATTERNS
) -> Path:
    """The folder of `model`: an embedded model's name, a local path, or a Hugging Face repo id (downloaded).

    Args:
        model: such as `octavo-tiny-hybrid`, `./my-model` or `RedHatAI/Qwen3-30B-A3B-FP8-dynamic`.
        revision: branch, tag or commit of the repo; None for the default branch.
        hub: how it is downloaded.
        patterns: which files of the repo.

    Raises:
        ConfigError: `model` is none of these, or a folder that this user may not read.
        CheckpointError: the repo cannot be downloaded and is not in the cache.
    """
    if not model:
        raise ConfigError("model", "is empty; name a folder, a Hugging Face repo id, or octavo-tiny")
    try:
        return _find(model, revision, hub, patterns)
    except OSError as exc:  # a name that is too long, a folder that is closed to this user
        raise ConfigError("model", f"{model:.200} cannot be looked up: {exc.strerror}") from exc


def _find(model: str, revision: str | None, hub: Hub, patterns: Sequence[str]) -> Path:
    """Raises as `resolve_folder`, and OSError."""
    path = Path(os.path.expanduser(model))  # without a home folder, ~ is a name like any other
    embedded = re.fullmatch(r"[\w.-]+", model) is not None and (ASSETS / model / "config.json").exists()
    if embedded or path.is_dir():
        if revision is not None:
            log.warning("revision %s has no effect: %s is a folder on this machine, not a repo", revision, model)
        folder = ASSETS / model if embedded else path
        if not os.access(folder, os.R_OK | os.X_OK):
            raise ConfigError("model", f"{model} is a folder that this user may not read")
        return folder
    if path.suffix == ".gguf" and path.exists():
        raise ConfigError(
            "model", f"{model} is GGUF, which is not served; give a folder with config.json and safetensors"
        )
    if path.exists():
        raise ConfigError("model", f"{model} is a file; give the folder with config.json and the safetensors files")
    if REPO_ID.fullmatch(model) is None:
        names = ", ".join(sorted(file.parent.name for file in ASSETS.glob("*/config.json")))
        raise ConfigError("model", f"{model!r} is no folder, no Hugging Face repo id, and not embedded ({names})")
    return _download(model, revision, hub, patterns)


def _download(repo: str, revision: str | None, hub: Hub, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        stored = hub.token is not None and hub.token.lower() == "true"
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=list(patterns),
                cache_dir=None if hub.folder is None else Path(hub.folder).expanduser(),
                token=True if stored else hub.token,
            )
        )
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as exc:
        raise CheckpointError(
            f"{repo}{'@' + revision if revision else ''} is no local folder and could not be downloaded "
            f"({type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else 'no reason given'}). Check the name, "
            "the network and HF_TOKEN, or download it elsewhere and give the folder"
        ) from exc

"""From the name of a model to its folder on this machine."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path

from octavo.errors import CheckpointError, ConfigError

ASSETS = Path(str(files("octavo"))) / "assets"
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PATTERNS = ["*.json", "*.safetensors", "tokenizer*", "*.jinja", "merges.txt", "vocab.txt"]
"""What is downloaded: no pickles, and no code."""


def resolve_folder(model: str, revision: str | None) -> Path:
    """The folder of `model`: an embedded model's name, a local path, or a Hugging Face repo id (downloaded).

    Args:
        model: such as `octavo-tiny`, `./my-model` or `RedHatAI/Qwen3-30B-A3B-FP8-dynamic`.
        revision: branch, tag or commit of the repo; None for the default branch.

    Raises:
        ConfigError: `model` is none of these.
        CheckpointError: the repo cannot be downloaded and is not in the cache.
    """
    if re.fullmatch(r"[\w.-]+", model) and (ASSETS / model / "config.json").exists():
        return ASSETS / model
    path = Path(os.path.expanduser(model))  # without a home folder, ~ is a name like any other
    if path.is_dir():
        return path
    if path.exists():
        raise ConfigError("model", f"{model} is a file; give the folder with config.json and the safetensors files")
    if REPO_ID.fullmatch(model) is None:
        embedded = ", ".join(sorted(folder.name for folder in ASSETS.iterdir() if folder.is_dir()))
        raise ConfigError("model", f"{model!r} is no folder, no Hugging Face repo id, and not embedded ({embedded})")
    return _download(model, revision)


def _download(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=PATTERNS))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as exc:
        raise CheckpointError(
            f"{repo}{'@' + revision if revision else ''} is no local folder and could not be downloaded "
            f"({type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else 'no reason given'}). Check the name, "
            "the network and HF_TOKEN, or download it elsewhere and give the folder"
        ) from exc

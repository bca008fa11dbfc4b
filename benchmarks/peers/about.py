"""What a file of a peer says about the engine: its name with the version, and what it was given besides."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from typing import Any

ENVIRONMENT = ("VLLM_", "SGLANG_")
"""How names of variables begin that engines read."""


def about(name: str, package: str, extra: Mapping[str, object]) -> dict[str, object]:
    """From the engine's name, its package, which is installed here, and the settings it was given besides."""
    return {"engine": f"{name} {importlib.metadata.version(package)}", "extra": extra}


def given(extra: Mapping[str, object]) -> dict[str, object]:
    """The settings `extra`, and an engine's in the environment but for folders; to be asked before a script adds its own there."""
    variables = {name: value for name, value in sorted(os.environ.items()) if name.startswith(ENVIRONMENT)}
    return {**extra, **{name: value for name, value in variables.items() if "/" not in value}}


def name_of(peer: Mapping[str, Any]) -> str:
    """Of its column: the engine, and the settings that it was given besides."""
    return ", ".join([peer["engine"], *(f"{name} {value}" for name, value in peer["extra"].items())])

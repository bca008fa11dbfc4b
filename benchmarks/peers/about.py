"""What a file of a peer says about the engine: its name with the version, and what it was given besides."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any


def about(name: str, package: str, extra: Mapping[str, object]) -> dict[str, object]:
    """From the engine's name, its package, which is installed here, and the settings it was given besides."""
    return {"engine": f"{name} {importlib.metadata.version(package)}", "extra": extra}


def name_of(peer: Mapping[str, Any]) -> str:
    """Of its column: the engine, and the arguments that it was given besides."""
    return ", ".join([peer["engine"], *(f"{name} {value}" for name, value in peer["extra"].items())])

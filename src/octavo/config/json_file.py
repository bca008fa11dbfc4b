"""Reads the files of a model folder that hold a JSON object each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from octavo.config.model_file import require_file
from octavo.errors import CheckpointError


def read_json_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in `path`.

    Raises:
        CheckpointError: the file is not there, cannot be read, or holds something else.
    """
    require_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise CheckpointError("not found; a model folder needs it", file=str(path)) from exc
    except OSError as exc:
        raise CheckpointError(f"cannot be read: {exc.strerror}", file=str(path)) from exc
    except (ValueError, RecursionError) as exc:  # not UTF-8, not JSON, a number of thousands of digits, deep nesting
        raise CheckpointError(f"is not JSON: {exc}", file=str(path)) from exc
    if not isinstance(value, dict):
        raise CheckpointError(f"must hold a JSON object, holds {type(value).__name__}", file=str(path))
    return value

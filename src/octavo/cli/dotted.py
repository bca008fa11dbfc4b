"""JSON by dotted flags: `--default-chat-template-kwargs.enable_thinking false`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from octavo.errors import ConfigError

_PYTHON_WORDS = {"True": True, "False": False, "None": None}
"""Read as what they mean: as a text, `False` would be true in a template."""


def joined(words: Sequence[str]) -> list[str]:
    """`words` with all `--flag.key value` and `--flag.key=value` of a flag in one `--flag={...}`, where the first was.

    Keys may be dotted in turn; values are JSON, or texts.

    Raises:
        ConfigError: a dotted flag without a value; keys that contradict; or the flag given as JSON too.
    """
    found: dict[str, dict[str, Any]] = {}
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.partition("=")
        flag, dot, path = name.partition(".")
        if not (dot and flag.startswith("--") and path):
            rest.append(word)
            continue
        if not equals:
            if not queue or queue[0].startswith("--"):
                raise ConfigError(name, "needs a value")
            value = queue.pop(0)
        if flag not in found:
            found[flag] = {}
            rest.append(flag)
        _put(found[flag], name, path.split("."), _read(value))
    for flag, value_of in found.items():
        if rest.count(flag) > 1 or any(word.startswith(f"{flag}=") for word in rest):
            raise ConfigError(flag, "is given as JSON and by dotted keys; give it one way")
        rest[rest.index(flag)] = f"{flag}={json.dumps(value_of)}"
    return rest


def _put(target: dict[str, Any], name: str, path: Sequence[str], value: Any) -> None:
    *parents, last = path
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise ConfigError(name, f"{parent} has a value of its own already")
    if last in target:
        raise ConfigError(name, "is given twice")
    target[last] = value


def _read(text: str) -> Any:
    if text in _PYTHON_WORDS:
        return _PYTHON_WORDS[text]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text

"""One setting: a field with its help text and the rules for its values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from octavo.errors import ConfigError


def setting(default: Any, help: str, group: str, **extra: Any) -> Any:
    """A field of `Settings` with its help text and the group it is listed under.

    Args:
        extra: `choices` (allowed values), `minimum` (smallest allowed number), `none_words` (words that mean None),
            `bare` (what the flag alone means), `secret` (never shown).
    """
    return dataclasses.field(
        default=default, repr=not extra.get("secret", False), metadata={"help": help, "group": group, **extra}
    )


def check(name: str, value: Any, rules: Mapping[str, Any]) -> None:
    """Check a value against the `rules` that `setting` noted for its field.

    Raises:
        ConfigError: it is none of the choices, or below the minimum.
    """
    choices, minimum = rules.get("choices"), rules.get("minimum")
    if choices is not None and value not in choices:
        raise ConfigError(name, f"must be one of {', '.join(choices)}, got {value!r}")
    if minimum is not None and value is not None and not value >= minimum:
        raise ConfigError(name, f"must be at least {minimum}, got {value}")

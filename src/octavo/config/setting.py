"""One setting: a field with its help text and the rules for its values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from octavo.errors import ConfigError

MOST = 2**63 - 1
"""The largest whole number of any setting."""


def setting(default: Any, help: str, group: str, **extra: Any) -> Any:
    """A field of `Settings` with its help text and the group it is listed under.

    Args:
        extra: `choices` (allowed values), `minimum` and `maximum` (smallest and largest allowed number), `none_words` (words
            that mean None), `bare` (what the flag alone means), `secret` (never shown), `may_be_empty` (of a text).
    """
    return dataclasses.field(
        default=default, repr=not extra.get("secret", False), metadata={"help": help, "group": group, **extra}
    )


def check(name: str, value: Any, rules: Mapping[str, Any]) -> None:
    """Check a value against the `rules` that `setting` noted for its field.

    Raises:
        ConfigError: it is none of the choices, not between minimum and maximum, a text of nothing, or a whole number that no
            message between processes can hold.
    """
    choices, minimum = rules.get("choices"), rules.get("minimum")
    maximum = rules.get("maximum", MOST if isinstance(value, int) else None)
    if choices is not None and value not in choices:
        raise ConfigError(name, f"must be one of {', '.join(choices)}, got {value!r}")
    if minimum is not None and value is not None and not value >= minimum:
        raise ConfigError(name, f"must be at least {minimum}, got {value}")
    if maximum is not None and value is not None and not value <= maximum:
        raise ConfigError(name, f"must be at most {maximum}, got {value}")
    if value == "" and not rules.get("may_be_empty"):
        raise ConfigError(name, "is empty; leave it out")

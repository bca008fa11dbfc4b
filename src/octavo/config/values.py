"""Settings as typed values, from what a person writes on a command line, in YAML or in Python."""

from __future__ import annotations

import dataclasses
import decimal
import functools
import json
import re
import types
import typing
from collections.abc import Callable
from typing import Any

SIZE_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
"""As vLLM reads them: small letters count in thousands, capital letters in 1024s."""

_SIZE = re.compile(r"(-?\d+(?:\.\d+)?)([kmgtKMGT]?)")
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


def read_bool(raw: object) -> bool:
    """True or False from a bool, or from one of true/false, 1/0, yes/no, on/off."""
    if isinstance(raw, bool):
        return raw
    word = str(raw).lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"must be true or false, got {raw!r}")


def read_int(raw: object) -> int:
    """A whole number: 8192, "8192", "8k" (8000), "8K" (8192), "25.6k" (25600)."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    match = _SIZE.fullmatch(str(raw).strip()) if isinstance(raw, str) else None
    if match:
        number = decimal.Decimal(match[1]) * SIZE_UNITS.get(match[2], 1)
        if number == int(number):
            return int(number)
    raise ValueError(f"must be a whole number (32k and 32K are understood), got {raw!r}")


def read_float(raw: object) -> float:
    """A number."""
    if isinstance(raw, (int, float, str)) and not isinstance(raw, bool):
        try:
            return float(raw)
        except ValueError:
            pass
    raise ValueError(f"must be a number, got {raw!r}")


def read_str(raw: object) -> str:
    """Text; YAML numbers are taken as they are written."""
    if isinstance(raw, (dict, list, tuple, bool)) or raw is None:
        raise ValueError(f"must be text, got {raw!r}")
    return str(raw)


def read_list(raw: object) -> tuple[str, ...]:
    """Texts from a list, a JSON list, or words separated by commas."""
    if isinstance(raw, str) and raw.lstrip().startswith("["):
        items: Any = _json(raw)  # text that begins so and is JSON is a list
        return tuple(read_str(item) for item in items)
    if isinstance(raw, str):
        raw = [part.strip() for part in raw.split(",") if part.strip()]
    if not isinstance(raw, (list, tuple)):
        raise ValueError(f"must be a list, got {raw!r}")
    if len(raw) == 1 and isinstance(raw[0], str) and (raw[0].lstrip().startswith("[") or "," in raw[0]):
        return read_list(raw[0])
    return tuple(read_str(item) for item in raw)


def read_object(raw: object) -> dict[str, Any]:
    """A mapping, or a JSON object."""
    value = _json(raw) if isinstance(raw, str) else raw
    if not isinstance(value, dict):
        raise ValueError(f"must be a JSON object, got {raw!r}")
    return value


def _json(raw: str) -> object:
    try:
        return json.loads(raw)
    except json.JSONDecodeError as exc:
        raise ValueError(f"is not JSON ({exc}): {raw!r}") from None


READERS: dict[type, Callable[[object], Any]] = {
    bool: read_bool,
    int: read_int,
    float: read_float,
    str: read_str,
    tuple: read_list,
    dict: read_object,
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """Says what values a setting takes."""

    base: type
    """One of the keys of `READERS`."""
    optional: bool
    """None is a value: written as null, none, or left out."""
    none_words: tuple[str, ...] = ()
    """Other words that mean None, such as `auto`."""

    def read(self, raw: object) -> Any:
        """`raw` as a value of this kind.

        Raises:
            ValueError: it is not one; the message says what is expected.
        """
        if self.optional and (raw is None or str(raw).lower() in ("none", "null", *self.none_words)):
            return None
        return READERS[self.base](raw)


@functools.cache
def kinds(settings: type) -> dict[str, Kind]:
    """The kind of every field of a settings dataclass."""
    hints = typing.get_type_hints(settings)
    return {
        field.name: _kind(hints[field.name], tuple(field.metadata.get("none_words", ())))
        for field in dataclasses.fields(settings)
    }


def _kind(hint: Any, none_words: tuple[str, ...]) -> Kind:
    arms = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    (base,) = (arm for arm in arms if arm is not type(None))
    return Kind(typing.get_origin(base) or base, optional=type(None) in arms, none_words=none_words)

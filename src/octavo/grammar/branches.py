"""Whether a value can fit several schemas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from octavo.grammar.references import References

MAX_NAMES = 8
"""Of properties that may be the one that tells schemas apart."""
MAX_VALUES = 256
"""Of such a property, in one schema."""
KINDS = {"integer": "number"}
"""Types whose values are of another one too."""


def told_apart(branches: Sequence[Any], references: References) -> bool:
    """Whether a value fits one of `branches` at most: they differ in type, in their values, or in a property that all require."""
    taken: set[str] = set()
    listed: dict[str, set[str]] = {}
    objects = []
    for branch in branches:
        schema = references.followed(branch)
        values = _values(schema)
        if values is not None:
            kinds = {_kind(value) for value in values}
            texts = {_text(value) for value in values}
            if kinds & taken or any(texts & listed.get(kind, set()) for kind in kinds):
                return False
            for value in values:
                listed.setdefault(_kind(value), set()).add(_text(value))
            continue
        kinds = _types(schema)
        if "object" in kinds:
            objects.append(schema)
        new = kinds - {"object"}
        if not kinds or new & taken or not kinds.isdisjoint(listed):
            return False
        taken |= new
    if objects and "object" in listed:
        return False
    return len(objects) < 2 or _discriminated(objects, references)


def _discriminated(objects: Sequence[dict[str, Any]], references: References) -> bool:
    """Whether a property that all `objects` require has other values in each."""
    required = [list(map(str, told)) if isinstance(told := each.get("required"), list) else [] for each in objects]
    common = set(required[0]).intersection(*required[1:])
    names = [name for name in required[0] if name in common][:MAX_NAMES]
    return any(_differs(name, objects, references) for name in names)


def _differs(name: str, objects: Sequence[dict[str, Any]], references: References) -> bool:
    """Whether the values that property `name` may have are others in each of `objects`."""
    seen: set[str] = set()
    for each in objects:
        properties = each.get("properties")
        values = _values(references.followed(properties.get(name))) if isinstance(properties, dict) else None
        texts = set(map(_text, values or []))
        if not 0 < len(texts) <= MAX_VALUES or not seen.isdisjoint(texts):
            return False
        seen |= texts
    return True


def _values(schema: dict[str, Any]) -> list[Any] | None:
    """All values that fit `schema`; None if they are not listed."""
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _types(schema: dict[str, Any]) -> set[str]:
    """Kinds of the values that fit `schema`; empty if they are not told."""
    told = schema.get("type")
    return {KINDS.get(each, each) for each in (told if isinstance(told, list) else [told]) if isinstance(each, str)}


def _kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _text(value: Any) -> str:
    """Equal for equal values, and for none else."""
    if isinstance(value, str):
        return f'"{value}'
    return json.dumps(json.loads(json.dumps(value), parse_float=_number), sort_keys=True)


def _number(text: str) -> float | int:
    value = float(text)
    return int(value) if value.is_integer() else value

"""What is refused before anything is compiled, and how the rest is put so that it is honoured."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from octavo.grammar.schema import MAX_DEPTH, checked_schema
from octavo.grammar.words import SchemaError
from octavo.structured_outputs import NO_DOUBLE, GrammarKind, GrammarSource, far_number

MAX_BYTES = 1 << 20
"""Of what a grammar is compiled from."""


def checked_source(source: GrammarSource) -> GrammarSource:
    """What is to be compiled for `source`.

    Raises:
        SchemaError: it cannot be served; says where.
    """
    size = len(source.text.encode())
    if size > MAX_BYTES:
        raise SchemaError(None, f"it has {size} bytes, at most {MAX_BYTES}")
    if source.kind is GrammarKind.JSON_SCHEMA:
        return _with_text(source, checked_schema(_parsed(source)))
    if source.kind is GrammarKind.STRUCTURAL_TAG:
        tag = _parsed(source)
        _check_schemas_within(tag)
        return _with_text(source, tag)
    return source


def _parsed(source: GrammarSource) -> Any:
    try:
        value = json.loads(source.text)
    except RecursionError:
        raise SchemaError("#", f"schemas are nested more than {MAX_DEPTH} deep") from None
    if (place := far_number(value)) is not None:
        raise SchemaError(place, NO_DOUBLE)
    return value


def _with_text(source: GrammarSource, value: Any) -> GrammarSource:
    return msgspec.structs.replace(source, text=json.dumps(value, ensure_ascii=False))


def _check_schemas_within(tag: Any) -> None:
    """Check every schema of a structural tag."""
    left: list[tuple[Any, str]] = [(tag, "#")]
    while left:
        value, place = left.pop()
        if isinstance(value, list):
            left += [(inner, f"{place}/{index}") for index, inner in enumerate(value)]
        elif isinstance(value, dict):
            for name, inner in value.items():
                if name in ("json_schema", "schema"):
                    checked_schema(inner, f"{place}/{name}")
                else:
                    left.append((inner, f"{place}/{name}"))

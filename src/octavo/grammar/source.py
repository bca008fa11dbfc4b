"""What is refused before anything is compiled, and how the rest is put so that it is honoured."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from octavo.grammar.schema import MAX_DEPTH, checked_schema
from octavo.grammar.words import SchemaError
from octavo.structured_outputs import NO_DOUBLE, GrammarKind, GrammarSource, far_number

MAX_BYTES = 1 << 20
"""Of what a grammar is compiled from."""
MAX_SPELLED_BYTES = 256 << 10
"""Of texts that answers spell. Each byte is a state: with 300 ids as with 151,000 it takes 7 µs of a processor to compile, 10 more to
write, and 190 bytes of those that a compiled grammar may have, which so many cannot exceed."""
_OF_TAGS = ("begin", "end", "value", "separator")
"""Of texts in structural tags."""
_LITERAL = re.compile(r'"((?:[^"\\]|\\.)*+)(?:"|\Z)', re.DOTALL)
"""A text in a grammar; one that has no end goes on to that of the grammar."""


def checked_source(source: GrammarSource) -> GrammarSource:
    """What is to be compiled for `source`.

    Raises:
        SchemaError: it cannot be served; says where.
    """
    size = len(source.text.encode())
    if size > MAX_BYTES:
        raise SchemaError(None, f"it has {size} bytes, at most {MAX_BYTES}")
    match source.kind:
        case GrammarKind.JSON_SCHEMA:
            schema = _parsed(source)
            _check_spelled(_spelled_within(schema))
            return _with_text(source, checked_schema(schema))
        case GrammarKind.STRUCTURAL_TAG:
            tag = _parsed(source)
            _check_spelled(_spelled_within(tag))
            _check_schemas_within(tag)
            return _with_text(source, tag)
        case GrammarKind.REGEX:
            _check_spelled([source.text])
        case GrammarKind.EBNF | GrammarKind.LARK:
            _check_spelled(_LITERAL.findall(source.text))
    return source


def _check_spelled(texts: Iterable[str]) -> None:
    size = sum(len(text.encode()) for text in texts)
    if size > MAX_SPELLED_BYTES:
        raise SchemaError(
            None, f"its listed values, patterns and literals have {size} bytes together, at most {MAX_SPELLED_BYTES}"
        )


def _spelled_within(value: Any) -> Iterator[str]:
    """Yield the texts that a schema or a structural tag spells."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, list):
            left += each
        elif isinstance(each, dict):
            for name, inner in each.items():
                if name in ("enum", "const"):
                    yield json.dumps(inner, ensure_ascii=False)
                elif name == "grammar" and isinstance(inner, str):
                    yield from _LITERAL.findall(inner)
                elif name in ("pattern", *_OF_TAGS) and isinstance(inner, str):
                    yield inner
                else:
                    left.append(inner)


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

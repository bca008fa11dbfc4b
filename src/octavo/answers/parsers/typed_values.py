"""Arguments that a model writes as bare text become JSON, by the schema of the tool."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

from octavo.answers.parsers.call_form import Call
from octavo.answers.parsers.json_scanner import as_json, json_text
from octavo.answers.tool import Tool, ToolSet

_DEEPEST = 8
"""Schemas within schemas that are looked into for types."""
_TYPES: Mapping[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}


_MIXED_UP = {"object", "array", "boolean", "null"}
"""Types whose values models write as Python does now and then."""


def typed_call(name: str, arguments: Iterable[tuple[str, str]], tools: ToolSet) -> Call:
    """A call of `name` with arguments as they were written; of two with one name the later counts."""
    tool = tools.get(name)
    fields = {key: _value(tool, key, text) for key, text in arguments}
    return Call(name, "{" + ", ".join(f"{json_text(key)}: {value}" for key, value in fields.items()) + "}")


def _value(tool: Tool | None, key: str, text: str) -> str:
    """The JSON of one argument: what its schema wants, if the text can be read so, else the text."""
    types = _types(tool.parameter(key) if tool is not None else None)
    if types == {"string"}:
        return json_text(text)
    found = as_json(text.strip())
    if found is None and types & _MIXED_UP:
        found = _as_python(text.strip())
    if found is None:
        return json_text(text)
    kind = _kind(found)
    if not types or kind in types or (kind == "integer" and "number" in types):
        return found
    # A number where only text and other things are wanted is text; where no text is wanted, the client shall see it.
    return json_text(text) if "string" in types else found


def _types(schema: Any, depth: int = 0) -> set[str]:
    """Names of the types that `schema` allows; empty if it does not say."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return set()
    given = schema.get("type")
    if isinstance(given, str):
        return {given}
    if isinstance(given, list):
        return {name for name in given if isinstance(name, str)}
    if isinstance(schema.get("enum"), list):
        return {_TYPES.get(type(value), "string") for value in schema["enum"]}
    if "const" in schema:
        return {_TYPES.get(type(schema["const"]), "string")}
    several = [inner for name in ("anyOf", "oneOf", "allOf") for inner in schema.get(name) or ()]
    return set().union(*(_types(inner, depth + 1) for inner in several))


def _kind(value: str) -> str:
    """The type of a JSON text."""
    first = value[0]
    kinds = {'"': "string", "{": "object", "[": "array", "t": "boolean", "f": "boolean", "n": "null"}
    return kinds.get(first) or ("number" if any(char in value for char in ".eE") else "integer")


def _as_python(text: str) -> str | None:
    """The JSON of a literal as Python writes it."""
    try:
        return json_text(ast.literal_eval(text)) if len(text) <= 1 << 16 else None
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None

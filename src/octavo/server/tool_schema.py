"""Checks that what a client calls a JSON schema is one, as far as its keywords say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo.errors import RequestError

TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_OF_SCHEMA = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def check_schema(schema: Any, where: str) -> None:
    """Look at `schema`, of the arguments of a tool, and at all schemas in it.

    Raises:
        RequestError: it is none; the message says where.
    """
    if not isinstance(schema, Mapping):
        raise _wrong(where, "must be an object")
    if schema.get("type", "object") != "object":
        raise _wrong(f"{where}.type", "must be object: arguments have names")
    _check(schema, where)


def _check(schema: Any, where: str) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise _wrong(where, "must be a schema: an object, true or false")
    _check_type(schema.get("type"), f"{where}.type")
    _check_plain(schema, where)
    for keyword in _OF_SCHEMA:
        if keyword in schema and not (keyword == "items" and isinstance(schema[keyword], list)):
            _check(schema[keyword], f"{where}.{keyword}")
    for keyword in (*_OF_SCHEMAS, "items"):
        if isinstance(schema.get(keyword), list):
            for number, inner in enumerate(schema[keyword]):
                _check(inner, f"{where}.{keyword}.{number}")
        elif keyword in schema and keyword != "items":
            raise _wrong(f"{where}.{keyword}", "must be a list of schemas")
    for keyword in _BY_NAME:
        if not isinstance(schema.get(keyword, {}), Mapping):
            raise _wrong(f"{where}.{keyword}", "must map names to schemas")
        for name, inner in schema.get(keyword, {}).items():
            _check(inner, f"{where}.{keyword}.{name[:60]}")


def _check_type(given: Any, where: str) -> None:
    names = given if isinstance(given, list) else [] if given is None else [given]
    for name in names:
        if not isinstance(name, str) or name not in TYPES:
            raise _wrong(where, f"must be one of {', '.join(sorted(TYPES))}, or a list of them, got {str(name)[:40]!r}")


def _check_plain(schema: Mapping[str, Any], where: str) -> None:
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise _wrong(f"{where}.required", "must be a list of names")
    if "enum" in schema and not (isinstance(schema["enum"], list) and schema["enum"]):
        raise _wrong(f"{where}.enum", "must be a list of values")
    if not isinstance(schema.get("$ref", ""), str):
        raise _wrong(f"{where}.$ref", "must be a text")
    if not isinstance(schema.get("pattern", ""), str):
        raise _wrong(f"{where}.pattern", "must be a text")


def _wrong(where: str, why: str) -> RequestError:
    return RequestError(f"{where} {why}", param="tools")

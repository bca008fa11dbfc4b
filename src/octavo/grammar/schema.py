"""What a JSON schema may say: all that xgrammar holds to, or can be told in other words. The rest is refused, with its place.

xgrammar leaves out what it does not know, and then makes answers that are not valid. So the words of a schema are looked at
one by one, before it is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

MAX_DEPTH = 64
"""Schemas within schemas."""
NOTES = frozenset(
    [
        "title",
        "description",
        "default",
        "examples",
        "example",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$comment",
        "$schema",
        "$id",
        "$defs",
        "definitions",
        "nullable",
        "discriminator",
        "contentMediaType",
        "contentEncoding",
    ]
)
"""Words that change nothing."""
WORDS: dict[str, frozenset[str]] = {
    "object": frozenset(
        [
            "properties",
            "required",
            "additionalProperties",
            "unevaluatedProperties",
            "patternProperties",
            "propertyNames",
            "minProperties",
            "maxProperties",
        ]
    ),
    "array": frozenset(["items", "prefixItems", "minItems", "maxItems", "unevaluatedItems", "additionalItems"]),
    "string": frozenset(["minLength", "maxLength", "pattern", "format"]),
    "integer": frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]),
    "number": frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]),
    "boolean": frozenset(),
    "null": frozenset(),
}
"""What may be said of each type."""
INFERRED = frozenset({"object", "array"})
"""Types that need not be named where something is said of them."""
ASSERTIONS = frozenset().union(*WORDS.values()) | frozenset(
    [
        "not",
        "if",
        "then",
        "else",
        "contains",
        "minContains",
        "maxContains",
        "uniqueItems",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "multipleOf",
        "$dynamicRef",
        "$recursiveRef",
    ]
)
"""Words that say what a value must be."""
REMEDIES = {
    "uniqueItems": "leave it out, and look at the answer",
    "not": "say what the value may be instead",
    "if": "use anyOf",
    "contains": "use prefixItems",
    "multipleOf": "it is served for integers",
}
FORMATS = frozenset(
    [
        "date",
        "time",
        "date-time",
        "duration",
        "ipv4",
        "ipv6",
        "hostname",
        "uuid",
        "uri",
        "uri-reference",
        "uri-template",
        "json-pointer",
        "relative-json-pointer",
        "email",
    ]
)
COUNTS = frozenset(["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"])
BRANCHES = ("anyOf", "oneOf", "allOf")
_NEGATED_CLASS = re.compile(r"\[\^(?:\\.|[^\]\\])*\]")
_UNSAFE = re.compile(r'"|\\\\|[\x00-\x1f]|\\[nrtfv0xuUc]')
"""In a pattern: what JSON would have to escape, which xgrammar does not."""


class SchemaError(ValueError):
    """A schema says what cannot be served; the message has the place."""


def checked_schema(schema: Any, place: str = "#") -> Any:
    """`schema`, changed in place into words that xgrammar holds to.

    Raises:
        SchemaError: it says what cannot be served.
    """
    left: list[tuple[Any, str, int]] = [(schema, place, 0)]
    while left:
        each, where, depth = left.pop()
        if depth > MAX_DEPTH:
            raise SchemaError(f"at {where}: schemas are nested more than {MAX_DEPTH} deep")
        if isinstance(each, bool):
            continue
        if not isinstance(each, dict):
            raise SchemaError(f"at {where}: a schema must be an object, true or false")
        _check_words(each, where)
        left += [(inner, f"{where}/{name}", depth + 1) for name, inner in _inner(each, where)]
    return schema


def _inner(schema: Schema, where: str) -> Iterator[tuple[str, Any]]:
    """Schemas right within `schema`, with their names."""
    for word in ("properties", "patternProperties", "$defs", "definitions"):
        if word in schema:
            if not isinstance(schema[word], dict):
                raise SchemaError(f"at {where}/{word}: must be an object")
            yield from ((f"{word}/{_escaped(name)}", inner) for name, inner in schema[word].items())
    for word in ("prefixItems", *BRANCHES):
        if word in schema:
            if not isinstance(schema[word], list) or not schema[word]:
                raise SchemaError(f"at {where}/{word}: must be a list that is not empty")
            yield from ((f"{word}/{index}", inner) for index, inner in enumerate(schema[word]))
    for word in ("items", "additionalProperties", "unevaluatedProperties", "propertyNames"):
        if word in schema:
            yield word, schema[word]


def _check_words(schema: Schema, where: str) -> None:
    said = {
        word for word in schema if word in ASSERTIONS or word in BRANCHES or word in ("$ref", "enum", "const", "type")
    }
    for whole in ("$ref", *BRANCHES):
        if whole in said:
            if more := sorted(said - {whole}):
                raise SchemaError(f"at {where}: {more[0]} beside {whole} is not served; say both in one schema")
            _check_whole(schema, whole, where)
            return
    types = _types(schema, said, where)
    if "enum" in said or "const" in said:
        _check_values(schema, types, said - {"enum", "const", "type"}, where)
        return
    allowed = frozenset().union(*(WORDS[each] for each in types)) if types else frozenset()
    irrelevant = frozenset().union(*WORDS.values()) - allowed if types and "type" in said else frozenset()
    for word in sorted(said - {"type"} - allowed - irrelevant):
        if word == "uniqueItems" and schema[word] is False:
            continue
        remedy = "; " + REMEDIES[word] if word in REMEDIES else ""
        raise SchemaError(f"at {where}: {word} is not served{' without a type' * (not types)}{remedy}")
    if "multipleOf" in said and "number" in types:
        raise SchemaError(f"at {where}: multipleOf is not served for numbers; {REMEDIES['multipleOf']}")
    for word in sorted(said & COUNTS):
        if isinstance(schema[word], bool) or not isinstance(schema[word], int) or schema[word] < 0:
            raise SchemaError(f"at {where}/{word}: must be a number of things, got {schema[word]!r:.60}")
    if "string" in types:
        _check_string(schema, where)
    if "object" in types:
        _check_object(schema, where)


def _types(schema: Schema, said: set[str], where: str) -> list[str]:
    """The types that a value may have; empty: any."""
    told = schema.get("type")
    if told is None:
        return [each for each in INFERRED if said & WORDS[each]]
    types: list[Any] = told if isinstance(told, list) else [told]
    for each in types:
        if not isinstance(each, str) or each not in WORDS:
            raise SchemaError(f"at {where}/type: {each!r:.60} is no type; there are {', '.join(WORDS)}")
    return types


def _check_whole(schema: Schema, word: str, where: str) -> None:
    """What stands for all that a schema says."""
    if word == "$ref" and not (isinstance(schema[word], str) and re.match("#(/|$)", schema[word])):
        raise SchemaError(
            f"at {where}/$ref: {schema[word]!r:.100} is not within the schema; nothing is fetched, so copy it into $defs"
        )
    if word == "allOf" and isinstance(schema[word], list) and len(schema[word]) > 1:
        raise SchemaError(f"at {where}/allOf: of several schemas is not served; say all in one schema")


def _check_values(schema: Schema, types: list[str], more: set[str], where: str) -> None:
    """A list of all values that there may be."""
    if more or ("enum" in schema and "const" in schema):
        word = min(more, default="const")
        raise SchemaError(f"at {where}: {word} beside a list of values is not served; list those that fit")
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    if not isinstance(values, list) or not values:
        raise SchemaError(f"at {where}/enum: must be a list that is not empty")
    wrong = [value for value in values if types and not any(_is_of(value, each) for each in types)]
    if wrong:
        raise SchemaError(f"at {where}: {wrong[0]!r:.60} is not of type {' or '.join(types)}")


def _is_of(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    if isinstance(value, int | float):
        return kind == "number" or (kind == "integer" and value == int(value))
    return kind == ("string" if isinstance(value, str) else "array" if isinstance(value, list) else "object")


def _check_string(schema: Schema, where: str) -> None:
    """Lengths become a pattern: xgrammar's own rule for them lets in characters that JSON must escape."""
    lengths = [word for word in ("minLength", "maxLength") if word in schema]
    rules = [word for word in ("pattern", "format") if word in schema]
    if len(rules) == 2 or (rules and lengths):
        raise SchemaError(
            f"at {where}: {(rules + lengths)[1]} beside {rules[0]} is not served; say both in one pattern"
        )
    if "format" in schema and schema["format"] not in FORMATS:
        raise SchemaError(
            f"at {where}/format: {schema['format']!r:.60} is not served; there are {', '.join(sorted(FORMATS))}"
        )
    if "pattern" in schema:
        pattern = schema["pattern"]
        if not isinstance(pattern, str):
            raise SchemaError(f"at {where}/pattern: must be a text")
        if unsafe := _UNSAFE.search(_NEGATED_CLASS.sub("", pattern)):
            raise SchemaError(f"at {where}/pattern: {unsafe[0]!r} is not served: JSON must escape what it stands for")
    if lengths:
        least, most = schema.pop("minLength", 0), schema.pop("maxLength", "")
        if most != "" and most < least:
            raise SchemaError(f"at {where}: minLength is {least}, but maxLength is {most}")
        if (least, most) != (0, ""):
            schema["pattern"] = f'^[^"\\\\\\x00-\\x1f]{{{least},{most}}}$'


def _check_object(schema: Schema, where: str) -> None:
    """Names that are required must be among the properties, or xgrammar leaves them out."""
    required, properties = schema.get("required", []), schema.get("properties", {})
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise SchemaError(f"at {where}/required: must be a list of names")
    more = schema.get("additionalProperties")
    loose = [word for word in ("patternProperties", "propertyNames") if word in schema]
    unnamed = [name for name in required if isinstance(properties, dict) and name not in properties]
    if unnamed:
        if more is False or loose:
            raise SchemaError(f"at {where}/required: {unnamed[0]!r:.60} is not among the properties")
        schema["properties"] = {**properties, **{name: {} if more in (None, True) else more for name in unnamed}}
    if schema.get("minProperties") and (loose or more not in (None, False)):
        raise SchemaError(f"at {where}/minProperties: is served only where all properties have names; use required")


def _escaped(name: str) -> str:
    """`name` in a JSON pointer, cut to what can be read."""
    return name.replace("~", "~0").replace("/", "~1")[:60]

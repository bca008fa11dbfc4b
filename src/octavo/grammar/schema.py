"""What a JSON schema may say: all that xgrammar holds to, or can be told in other words. The rest is refused, with its place.

xgrammar leaves out what it does not know, and then makes answers that are not valid. So the words of a schema are looked at
one by one, before it is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from octavo.grammar.branches import told_apart
from octavo.grammar.property_counts import PropertyCounts
from octavo.grammar.references import References
from octavo.grammar.rules import LEAST, MOST, check_array, check_number, check_object, check_string
from octavo.grammar.words import BRANCHES, COUNTS, INFERRED, KNOWN, MOST_COUNT, REMEDIES, WORDS, Schema, SchemaError
from octavo.structured_outputs import escaped, numbers_within

MAX_DEPTH = 64
"""Schemas within schemas."""
SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
SCHEMA_LISTS = ("prefixItems", *BRANCHES)
SCHEMAS = (
    "items",
    "additionalItems",
    "unevaluatedItems",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
)
"""Words whose value is one schema."""


def checked_schema(schema: Any, place: str = "#") -> Any:
    """`schema`, changed in place into words that xgrammar holds to.

    Raises:
        SchemaError: it says what cannot be served.
    """
    references, counts = References(schema), PropertyCounts()
    left: list[tuple[Any, str, int, bool]] = [(schema, place, 0, False)]
    while left:
        each, where, depth, renamed = left.pop()
        if depth > MAX_DEPTH:
            raise SchemaError(where, f"schemas are nested more than {MAX_DEPTH} deep")
        if isinstance(each, bool):
            continue
        if not isinstance(each, dict):
            raise SchemaError(where, "a schema must be an object, true or false")
        renamed = renamed or (depth > 0 and "$id" in each)
        if renamed and "$ref" in each:
            raise SchemaError(f"{where}/$ref", "is not served within a schema that has an $id of its own")
        _check_words(each, where, references, counts)
        references.note(each, where)
        left += [(inner, f"{where}/{name}", depth + 1, renamed) for name, inner in _inner(each, where)]
        left += [(inner, place, depth + 1, renamed) for inner, place in references.take_shared()]
    if astray := references.astray():
        raise SchemaError(f"{astray}/$ref", "leads to no place of a schema; copy what it means into $defs")
    return schema


def _inner(schema: Schema, where: str) -> Iterator[tuple[str, Any]]:
    """Schemas right within `schema`, with their names."""
    for word in SCHEMAS_BY_NAME:
        if word in schema:
            if not isinstance(schema[word], dict):
                raise SchemaError(f"{where}/{word}", "must be an object")
            for name, inner in schema[word].items():
                if inner is False and word in ("properties", "patternProperties"):
                    raise SchemaError(f"{where}/{word}/{escaped(name)}", "false lets no value come; leave it out")
                yield f"{word}/{escaped(name)}", inner
    for word in SCHEMA_LISTS:
        if word in schema:
            if not isinstance(schema[word], list) or not schema[word]:
                raise SchemaError(f"{where}/{word}", "must be a list that is not empty")
            for index, inner in enumerate(schema[word]):
                if inner is False:
                    raise SchemaError(f"{where}/{word}/{index}", "false lets no value come; leave it out")
                yield f"{word}/{index}", inner
    for word in SCHEMAS:
        if word in schema:
            yield word, schema[word]


def _check_words(schema: Schema, where: str, references: References, counts: PropertyCounts) -> None:
    said = {word for word in schema if word in KNOWN}
    for word in schema.keys() - said:
        if (meant := _LETTERS.get(_letters(word))) is not None:
            raise SchemaError(where, f"{word!r:.60} is no word of JSON schemas; say {meant}, if that is meant")
    for whole in ("$ref", *BRANCHES):
        if whole in said:
            if more := sorted(said - {whole}):
                raise SchemaError(where, f"{more[0]} beside {whole} is not served; say both in one schema")
            _check_whole(schema, whole, where)
            if whole == "oneOf" and isinstance(schema[whole], list):
                if not told_apart(schema[whole], references):
                    raise SchemaError(
                        f"{where}/oneOf",
                        "a value may fit several of them; use anyOf, or a property that all require, with "
                        "other values in each",
                    )
                schema["anyOf"] = schema.pop(whole)
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
        raise SchemaError(where, f"{word} is not served{' without a type' * (not types)}{remedy}")
    if not types or {"integer", "number"} & set(types):
        check_number(schema, types, said, where)
    for word in sorted(said & COUNTS):
        if isinstance(schema[word], bool) or not isinstance(schema[word], int) or schema[word] < 0:
            raise SchemaError(f"{where}/{word}", f"must be a number of things, got {schema[word]!r:.60}")
        if schema[word] > MOST_COUNT:
            raise SchemaError(f"{where}/{word}", f"must be at most {MOST_COUNT}, got {schema[word]!r:.60}")
    if types and "type" not in schema:
        schema["type"] = types if len(types) > 1 else types[0]
    if "string" in types:
        check_string(schema, where)
    if "object" in types:
        check_object(schema, where, references)
        counts.add(schema, where)
    if "array" in types:
        check_array(schema, where)


def _letters(word: str) -> str:
    """Equal for words that differ in case, underscores and the order of their letters."""
    return "".join(sorted(word.lower().replace("_", "").replace("-", "")))


_LETTERS = {_letters(word): word for word in KNOWN}


def _types(schema: Schema, said: set[str], where: str) -> list[str]:
    """The types that a value may have; empty: any."""
    told = schema.get("type")
    if told is None:
        return [each for each in INFERRED if said & WORDS[each]]
    types: list[Any] = told if isinstance(told, list) else [told]
    for each in types:
        if not isinstance(each, str) or each not in WORDS:
            raise SchemaError(f"{where}/type", f"{each!r:.60} is no type; there are {', '.join(WORDS)}")
    return types


def _check_whole(schema: Schema, word: str, where: str) -> None:
    """What stands for all that a schema says."""
    if word == "$ref" and not (isinstance(schema[word], str) and re.match("#(/|$)", schema[word])):
        raise SchemaError(
            f"{where}/$ref",
            f"{schema[word]!r:.100} is not within the schema; nothing is fetched, so copy it into $defs",
        )
    if word == "allOf" and isinstance(schema[word], list) and len(schema[word]) > 1:
        raise SchemaError(f"{where}/allOf", "of several schemas is not served; say all in one schema")


def _check_values(schema: Schema, types: list[str], more: set[str], where: str) -> None:
    """A list of all values that there may be."""
    if more or ("enum" in schema and "const" in schema):
        raise SchemaError(
            where, f"{min(more, default='const')} beside a list of values is not served; list those that fit"
        )
    word = "enum" if "enum" in schema else "const"
    values = schema[word] if word == "enum" else [schema[word]]
    if not isinstance(values, list) or not values:
        raise SchemaError(f"{where}/enum", "must be a list that is not empty")
    wrong = [value for value in values if types and not any(_is_of(value, each) for each in types)]
    if wrong:
        raise SchemaError(where, f"{wrong[0]!r:.60} is not of type {' or '.join(types)}")
    for place, number in numbers_within(schema[word], f"{where}/{word}"):
        if not LEAST <= number <= MOST and number != float(number):
            raise SchemaError(place, f"must have 64 bits, or be a number of double precision, got {number!r:.60}")


def _is_of(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    if isinstance(value, int | float):
        return kind == "number" or (kind == "integer" and value == int(value))
    return kind == ("string" if isinstance(value, str) else "array" if isinstance(value, list) else "object")

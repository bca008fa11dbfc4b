"""What is said of values of one type: checked, and put in words that xgrammar holds to."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from octavo.grammar.references import References
from octavo.grammar.words import BRANCHES, REMEDIES, WORDS, Schema, SchemaError
from octavo.structured_outputs import escaped

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
LEAST, MOST = -(2**63), 2**63 - 1
"""Bounds of integers, which xgrammar has in 64 bits."""
_LEAST = {"exclusiveMaximum": LEAST + 1, "multipleOf": 1}
_MOST = {"exclusiveMinimum": MOST - 1, "multipleOf": 1024}
FREE_FORMATS = frozenset(["password", "path", "binary"])
"""Formats that any text has."""
_NEGATED_CLASS = re.compile(r"\[\^(?:\\.|[^\]\\])*\]")
_UNSAFE = re.compile(r'"|\\\\|[\x00-\x1f]|\\[nrtfv0xuUc]')
"""In a pattern: what JSON would have to escape, which xgrammar does not."""
_UNKNOWN = re.compile(r"\\[pPbBk1-9]|\(\?[^:]")
"""In a pattern: what xgrammar does not know."""


def check_string(schema: Schema, where: str) -> None:
    """Lengths become a pattern: xgrammar's own rule for them lets in characters that JSON must escape."""
    if "pattern" in schema or schema.get("format") in FREE_FORMATS:
        schema.pop("format", None)  # beside a pattern it is a note, as the standard has it
    lengths = [word for word in ("minLength", "maxLength") if word in schema]
    rules = [word for word in ("pattern", "format") if word in schema]
    if rules and lengths:
        raise SchemaError(where, f"{lengths[0]} beside {rules[0]} is not served; say both in one pattern")
    if "format" in schema and schema["format"] not in FORMATS:
        raise SchemaError(
            f"{where}/format", f"{schema['format']!r:.60} is not served; there are {', '.join(sorted(FORMATS))}"
        )
    if "pattern" in schema:
        _check_pattern(schema["pattern"], f"{where}/pattern")
    if lengths:
        _check_counts(schema, "minLength", "maxLength", where)
        least, most = schema.pop("minLength", 0), schema.pop("maxLength", "")
        if (least, most) != (0, ""):
            schema["pattern"] = f'^[^"\\\\\\x00-\\x1f]{{{least},{most}}}$'


def check_number(schema: Schema, types: list[str], said: set[str], where: str) -> None:
    """Bounds are numbers, and whole where the value is."""
    if "multipleOf" in said and "number" in types:
        raise SchemaError(where, f"multipleOf is not served for numbers; {REMEDIES['multipleOf']}")
    for word in sorted(said & WORDS["integer"]):
        value = schema[word]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SchemaError(f"{where}/{word}", f"must be a number, got {value!r:.60}")
        if "number" not in types and value != int(value):
            raise SchemaError(f"{where}/{word}", f"must be whole for integers, got {value!r:.60}")
        if word == "multipleOf" and value <= 0:
            raise SchemaError(f"{where}/{word}", f"must be above 0, got {value!r:.60}")
        low, high = _LEAST.get(word, LEAST), _MOST.get(word, MOST)
        if "number" not in types and not low <= value <= high:
            raise SchemaError(f"{where}/{word}", f"must be {low} to {high} for integers, got {value!r:.60}")
    _check_range(schema, where, whole="number" not in types)


def _check_range(schema: Schema, where: str, *, whole: bool) -> None:
    """Some number lies between the bounds."""
    for least, most in itertools.product(("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if least in schema and most in schema:
            low, high, left_out = schema[least], schema[most], least.startswith("ex") + most.startswith("ex")
            if high < low or (left_out and (high == low or (whole and high - low < left_out))):
                raise SchemaError(where, f"{least} is {low!r:.60}, but {most} is {high!r:.60}")


def _check_counts(schema: Schema, least: str, most: str, where: str) -> None:
    low, high = schema.get(least, 0), schema.get(most)
    if high is not None and high < low:
        raise SchemaError(where, f"{least} is {low}, but {most} is {high}")


def _check_pattern(pattern: Any, where: str) -> None:
    if not isinstance(pattern, str):
        raise SchemaError(where, "must be a text")
    if unknown := _UNKNOWN.search(pattern):
        raise SchemaError(where, f"{unknown[0]!r} is not served")
    if unsafe := _UNSAFE.search(_NEGATED_CLASS.sub("", pattern)):
        raise SchemaError(where, f"{unsafe[0]!r} is not served: JSON must escape what it stands for")


def check_object(schema: Schema, where: str, references: References) -> None:
    """Names that are required must be among the properties, or xgrammar leaves them out."""
    if "propertyNames" in schema:
        _list_names(schema, references, where)
    required, properties = schema.get("required", []), schema.get("properties", {})
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise SchemaError(f"{where}/required", "must be a list of names")
    more = schema.get("additionalProperties")
    loose = [word for word in ("patternProperties", "propertyNames") if word in schema]
    if loose:
        _check_names(schema, loose, where)
    unnamed = [name for name in required if isinstance(properties, dict) and name not in properties]
    if unnamed:
        if more is False or loose:
            raise SchemaError(f"{where}/required", f"{unnamed[0]!r:.60} is not among the properties")
        each = {} if more in (None, True) else references.shared(more, f"{where}/additionalProperties")
        schema["properties"] = {**properties, **dict.fromkeys(unnamed, each)}
        if isinstance(more, dict):
            schema["additionalProperties"] = each
    if not schema.keys() & {"properties", "additionalProperties", "unevaluatedProperties", *loose}:
        more = schema["additionalProperties"] = True
    _check_counts(schema, "minProperties", "maxProperties", where)
    if schema.get("minProperties") and (loose or more not in (None, False)):
        raise SchemaError(f"{where}/minProperties", "is served only where all properties have names; use required")


def check_array(schema: Schema, where: str) -> None:
    """Where nothing is said of the items, they may be anything."""
    _check_counts(schema, "minItems", "maxItems", where)
    if not schema.keys() & {"items", "prefixItems", "additionalItems", "unevaluatedItems"}:
        schema["items"] = {}
    if isinstance(first := schema.get("prefixItems"), list):
        schema["prefixItems"] = [{} if each is True else each for each in first]


def _check_names(schema: Schema, loose: Sequence[str], where: str) -> None:
    """A name may be spoken of once: xgrammar holds to one rule only where several do."""
    if len(loose) > 1 or schema.get("properties"):
        raise SchemaError(where, f"{loose[-1]} beside {(['properties', *loose])[-2]} is not served; name them all")
    patterns = schema.get("patternProperties")
    if isinstance(patterns, dict):
        for pattern in patterns:
            _check_pattern(pattern, f"{where}/patternProperties/{escaped(pattern)}")
        if len(patterns) > 1:
            raise SchemaError(f"{where}/patternProperties", "of several patterns is not served, as a name may fit two")


def _list_names(schema: Schema, references: References, at: str) -> None:
    """Rules for names that say them all become properties; the others are rules of strings."""
    where = f"{at}/propertyNames"
    names = schema["propertyNames"]
    if names is True:
        del schema["propertyNames"]
        return
    followed: Any = {"enum": []} if names is False else references.followed(names)
    if followed.get("type", "string") != "string" or followed.keys() & frozenset(BRANCHES):
        raise SchemaError(where, "must be a list of names, or one rule of strings")
    values = [followed["const"]] if "const" in followed else followed.get("enum")
    if isinstance(values, list):
        if not all(isinstance(value, str) for value in values):
            raise SchemaError(where, "names are texts")
        if "properties" in schema or "patternProperties" in schema:
            return
        del schema["propertyNames"]
        word = "additionalProperties" if "additionalProperties" in schema else "unevaluatedProperties"
        each = references.shared(schema.get(word, {}), f"{at}/{word}")
        schema["properties"] = {} if each is False else dict.fromkeys(values, each)
        schema["additionalProperties"] = False
    elif isinstance(names, dict) and "$ref" not in names:
        names["type"] = "string"

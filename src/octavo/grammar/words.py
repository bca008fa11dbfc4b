"""The words of JSON schemas."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

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
INFERRED = ("object", "array")
"""Types that need not be named where something is said of them: an answer has one of them then."""
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
MOST_COUNT = 2**31 - 1
"""xgrammar takes a larger count for what is left of it in 32 bits."""
COUNTS = frozenset(["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"])
BRANCHES = ("anyOf", "oneOf", "allOf")
KNOWN = ASSERTIONS | frozenset([*BRANCHES, "$ref", "enum", "const", "type"])
"""All words that say what a value must be; what else a schema has are notes, as the standard has it."""


class SchemaError(ValueError):
    """A schema says what cannot be served.

    Args:
        place: JSON pointer of what it says so with; None: all of it does.
        why: it cannot be served.
    """

    def __init__(self, place: str | None, why: str) -> None:
        super().__init__(why if place is None else f"at {place}: {why}")
        self.place = place
        self.why = why

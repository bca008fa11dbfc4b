"""How many properties the objects of a schema may name."""

from __future__ import annotations

from octavo.grammar.words import Schema, SchemaError

MAX_NAMED = 4096
"""In a whole schema. Over 151,936 ids a required string takes 0.3 to 0.6 ms of a processor, one that is not up to 2 ms."""
MAX_OPTIONAL = 512
"""Of an object, that need not be there: behind each any later one may come, and xgrammar looks at all these. Over 151,936 ids 512
strings take 0.4 s of a processor, 1,024 take 3 s or, with long names, more than 10, and 1,400 more than 10."""
MAX_COUNTED = 8192
"""The same, times how many of them may be there, where `minProperties` or `maxProperties` has them counted: xgrammar makes a rule for
each with each count. 10,000 take 2.4 s, 22,500 more than 10."""


class PropertyCounts:
    """Counts the properties of a schema, object by object."""

    def __init__(self) -> None:
        self._named = 0

    def add(self, schema: Schema, where: str) -> None:
        """Count those of `schema`, an object whose words have been looked at.

        Raises:
            SchemaError: they are too many, or with those counted before.
        """
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return
        self._named += len(properties)
        if self._named > MAX_NAMED:
            raise SchemaError(f"{where}/properties", f"a schema may name {MAX_NAMED} properties in all")
        optional = len(properties.keys() - set(schema.get("required", [])))
        if optional > MAX_OPTIONAL:
            raise SchemaError(
                f"{where}/properties",
                f"{optional} are not required, at most {MAX_OPTIONAL}; require those that always come",
            )
        if schema.get("minProperties") or "maxProperties" in schema:
            counted = optional * min(optional, schema.get("maxProperties", optional))
            if counted > MAX_COUNTED:
                word = "maxProperties" if "maxProperties" in schema else "minProperties"
                raise SchemaError(
                    f"{where}/{word}",
                    f"counts {optional} properties that are not required; their number times how many of them may be there is "
                    f"{counted}, at most {MAX_COUNTED} can be",
                )

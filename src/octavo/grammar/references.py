"""Where the references of a schema lead."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from octavo.structured_outputs import unescaped

MAX_HOPS = 8
"""From one reference to the next."""


class References:
    """All references within a schema, and the schemas that they may lead to.

    Args:
        root: the schema, in which places are counted from.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._seen: set[int] = set()
        self._told: list[tuple[str, str]] = []
        self._shared: list[tuple[Any, str]] = []

    def note(self, schema: dict[str, Any], where: str) -> None:
        """`schema` is one whose words have been looked at."""
        self._seen.add(id(schema))
        if "$ref" in schema:
            self._told.append((schema["$ref"], where))

    def shared(self, schema: Any, where: str) -> Any:
        """What stands for `schema` in several places: a reference, so that the text does not grow with their number."""
        definitions = self._root.setdefault("$defs", {})
        if not isinstance(schema, dict) or not schema or not isinstance(definitions, dict):
            return schema
        name = next(
            name for count in itertools.count(len(definitions)) if (name := f"shared{count}") not in definitions
        )
        definitions[name] = schema
        self._shared.append((schema, where))
        return {"$ref": f"#/$defs/{name}"}

    def take_shared(self) -> list[tuple[Any, str]]:
        """What is shared since this was last called, and where it stood."""
        taken, self._shared = self._shared, []
        return taken

    def astray(self) -> str | None:
        """The place of a reference that leads to something that nobody has looked at; None if there is none."""
        for reference, where in self._told:
            target = self._target(reference)
            if target is not True and id(target) not in self._seen:
                return where
        return None

    def followed(self, schema: Any) -> dict[str, Any]:
        """The object that `schema` is, or refers to; empty if there is none."""
        for _ in range(MAX_HOPS):
            if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
                break
            schema = self._target(schema["$ref"])
        return schema if isinstance(schema, dict) else {}

    def _target(self, reference: str) -> Any:
        """What is at a JSON pointer; None if nothing is."""
        target = self._root
        for name in _names(reference):
            if isinstance(target, dict):
                target = target.get(name)
            elif isinstance(target, list) and name.isdecimal() and int(name) < len(target):
                target = target[int(name)]
            else:
                return None
        return target


def _names(reference: str) -> Iterator[str]:
    for name in unquote(reference.removeprefix("#")).split("/")[1:]:
        yield unescaped(name)

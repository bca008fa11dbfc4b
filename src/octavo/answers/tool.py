"""Tools that a request offers to the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Tool:
    """A function by name, with the JSON schema of its arguments."""

    name: str
    parameters: Mapping[str, Any]
    place: str = "tools"
    """Of the parameters in the request, for errors."""

    def parameter(self, name: str) -> Any:
        """The schema of one argument; None if the tool does not speak of it."""
        properties = self.parameters.get("properties")
        return properties.get(name) if isinstance(properties, Mapping) else None


class ToolSet:
    """Tools by name, in the order in which they were given."""

    def __init__(self, tools: Sequence[Tool] = ()) -> None:
        self._tools = {tool.name: tool for tool in tools}

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __contains__(self, name: str) -> bool:
        return name in self._tools

    def __len__(self) -> int:
        return len(self._tools)

    def get(self, name: str) -> Tool | None:
        return self._tools.get(name)

"""Fields of a chat request about tools, and what they ask for together."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from octavo.answers import Tool
from octavo.errors import RequestError
from octavo.server.fields import Json
from octavo.server.tool_schema import check_schema

MAX_TOOLS = 4096
LONGEST_NAME = 128
_NAME = re.compile(r"[A-Za-z0-9_.:/-]+")


class FunctionField(BaseModel):
    """What a tool is called, what it does and what it takes."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class ToolField(BaseModel):
    """A function that the client runs when the model calls it."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    type: Literal["function"] = "function"
    function: FunctionField

    def shown(self) -> Json:
        """As the chat template gets it: what the client wrote, without what is meant for the server."""
        function = self.function.model_dump(exclude_unset=True, exclude={"strict"})
        return {"type": self.type, "function": {name: value for name, value in function.items() if value is not None}}

    def checked(self, where: str) -> Tool:
        """Raises RequestError if its name or its schema is wrong."""
        name = self.function.name
        if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
            raise RequestError(
                f"{where}.function.name must be 1 to {LONGEST_NAME} letters, digits or any of _-.:/, got {name[:140]!r}",
                param="tools",
            )
        schema = self.function.parameters or {}
        place = f"{where}.function.parameters"
        check_schema(schema, place)
        return Tool(name, schema, place)


class NamedFunction(BaseModel):
    """The name of a tool."""

    name: str


class NamedToolChoice(BaseModel):
    """The one tool that is to be called."""

    type: Literal["function"] = "function"
    function: NamedFunction


Tools = Annotated[list[ToolField], Field(max_length=MAX_TOOLS, fail_fast=True)]
ToolChoice = Literal["none", "auto", "required"] | NamedToolChoice


def checked_tools(tools: list[ToolField]) -> tuple[Tool, ...]:
    """The tools, whose names are all different.

    Raises:
        RequestError: one of them is wrong.
    """
    checked: dict[str, Tool] = {}
    for number, field in enumerate(tools):
        tool = field.checked(f"tools.{number}")
        if tool.name in checked:
            raise RequestError(f"tools.{number}.function.name: {tool.name!r} is there twice", param="tools")
        checked[tool.name] = tool
    return tuple(checked.values())


def checked_choice(choice: Any, tools: tuple[Tool, ...]) -> None:
    """Raises RequestError if `choice` wants a call of a tool that is not there."""
    if choice in (None, "none", "auto"):
        return
    if not tools:
        raise RequestError("tool_choice wants a call, but there are no tools", param="tool_choice")
    if isinstance(choice, NamedToolChoice) and choice.function.name not in {tool.name for tool in tools}:
        raise RequestError(
            f"tool_choice names {choice.function.name[:140]!r}, which is not among the tools", param="tool_choice"
        )

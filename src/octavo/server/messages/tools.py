"""Fields of a message request about tools, as chat has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WrapValidator
from pydantic_core import PydanticCustomError

from octavo.server.fields import Json
from octavo.server.messages.blocks import CachedBlock, Caller, Strict, nothing
from octavo.server.tool_fields import MAX_TOOLS


class ToolDefinition(CachedBlock):
    """A tool that the client runs when the model calls it."""

    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: Json
    input_examples: list[Json] | None = None
    strict: bool | None = None
    eager_input_streaming: bool | None = None
    defer_loading: Annotated[Any, nothing("there is no search for tools; every tool is shown", False)] = None
    allowed_callers: Caller = None

    def as_chat(self) -> Json:
        """The function that chat knows; with what the model may read."""
        shown: Json = {"name": self.name, "description": self.description, "parameters": self.input_schema}
        if self.input_examples:
            shown["input_examples"] = self.input_examples
        return {"type": "function", "function": {name: value for name, value in shown.items() if value is not None}}


class ToolChoiceField(Strict):
    """Which tools the model is to call, and how many."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    def as_chat(self) -> Any:
        """The choice in the words of chat; None: as the tools say."""
        match self.type:
            case "any":
                return "required"
            case "tool":
                return {"type": "function", "function": {"name": self.name or ""}}
            case "none":
                return "none"
            case _:
                return None


def _custom(value: Any, inner: Callable[[Any], ToolDefinition]) -> ToolDefinition:
    """Tools that a server runs, or that a model must be trained for, are refused by name."""
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind != "custom":
        message = "tools of type {kind} cannot be served here: define a custom tool with an input_schema"
        raise PydanticCustomError("not_served", message, {"kind": kind[:60]})
    return inner(value)


Tools = Annotated[list[Annotated[ToolDefinition, WrapValidator(_custom)]], Field(max_length=MAX_TOOLS, fail_fast=True)]

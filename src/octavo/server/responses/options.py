"""Fields of a response that say what chat says in other words: tools, the form of the text, how much to think."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from octavo.errors import RequestError
from octavo.server.chat_request import Effort
from octavo.server.fields import Json
from octavo.server.tool_fields import MAX_TOOLS


class Option(BaseModel):
    """An object of which every field is known; null stands for one that is not set."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_set(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


class ReasoningOption(Option):
    """How much the model is to think."""

    effort: Effort | None = None
    summary: Literal["auto"] | None = Field(default=None, description="Thoughts are told whole; there are no summaries")

    def shown(self) -> Json:
        """As a response tells it."""
        return {"effort": self.effort, "summary": None}


class FormatOption(Option):
    """The form of the text."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(max_length=64)] | None = None
    description: str | None = None
    json_schema: Json | None = Field(default=None, alias="schema")
    strict: bool | None = None

    def of_chat(self) -> Json:
        """The `response_format` of chat.

        Raises:
            RequestError: a schema is missing, or one has no use.
        """
        if self.type != "json_schema":
            if self.json_schema is not None:
                raise RequestError(f"text.format of type {self.type} takes no schema", param="text.format.schema")
            return {"type": self.type}
        if self.json_schema is None:
            raise RequestError("text.format of type json_schema needs a schema", param="text.format.schema")
        return {"type": self.type, "json_schema": {"schema": self.json_schema}}

    def shown(self) -> Json:
        """As a response tells it: a form is always held to."""
        if self.type != "json_schema":
            return {"type": self.type}
        known = {"type": self.type, "name": self.name or "answer", "schema": self.json_schema, "strict": True}
        return known | ({} if self.description is None else {"description": self.description})


class TextOption(Option):
    """The text of the answer."""

    format: FormatOption | None = None
    verbosity: Literal["medium"] | None = Field(
        default=None, description="Say in the input how long the answer is to be"
    )

    def shown(self) -> Json:
        """As a response tells it."""
        return {"format": self.format.shown() if self.format is not None else {"type": "text"}, "verbosity": "medium"}


class StreamOption(Option):
    """What a stream tells besides the answer; the usage always comes with its end."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class FunctionTool(BaseModel):
    """A function that the client runs when the model calls it."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    type: str = "function"
    name: str | None = None
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None

    def of_chat(self, where: str) -> Json:
        """The tool as chat has it.

        Raises:
            RequestError: it is no function, or more than one.
        """
        if self.type != "function":
            raise RequestError(
                f"{where} is of type {self.type!r:.60}, which cannot be served: only functions, which the client runs",
                param=where,
            )
        if self.name is None:
            why = "is missing; name, description and parameters stand in the tool itself, in no function"
            raise RequestError(f"{where}.name {why}", param=f"{where}.name")
        for name, value in (self.model_extra or {}).items():
            if value not in HARMLESS.get(name, (None,)):
                raise RequestError(f"{where}.{name:.60} cannot be served: leave it out", param=f"{where}.{name:.60}")
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}

    def shown(self, *, enforced: bool) -> Json:
        """As a response tells it: only calls that are enforced are held to their schema."""
        told = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", **told, "strict": enforced}


HARMLESS: dict[str, tuple[Any, ...]] = {
    "defer_loading": (None, False),
    "allowed_callers": (None, ["direct"]),
    "async": (None, False),
}
"""Further fields of a tool, with the values that ask for nothing."""


FunctionTools = Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS, fail_fast=True)]
Choice = str | Json
CHOICES = ("none", "auto", "required")


def is_enforced(choice: Choice | None) -> bool:
    """Whether the model has to call."""
    return choice == "required" or isinstance(choice, dict)


def choice_of_chat(choice: Choice | None) -> Any:
    """The `tool_choice` of chat.

    Raises:
        RequestError: it is none.
    """
    if choice is None or choice in CHOICES:
        return choice
    if isinstance(choice, dict):
        name = choice.get("name")
        if choice.get("type") == "function" and isinstance(name, str) and len(choice) == 2:
            return {"type": "function", "function": {"name": name}}
        choice = str(choice.get("type"))
    raise RequestError(
        f'tool_choice is {choice!r:.60}, must be {", ".join(CHOICES)} or {{"type": "function", "name": ...}}',
        param="tool_choice",
    )

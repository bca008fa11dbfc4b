"""Content blocks that clients send: text, calls of tools and their results, and thoughts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, WrapValidator
from pydantic_core import PydanticCustomError

from octavo.server.fields import Json

T = TypeVar("T")

_FILES = "the model reads text only; put what the file says into a text block"
_SERVER_TOOLS = "the server runs no tools; the client does, and sends the result as a tool_result"
REFUSED = {
    "image": _FILES,
    "document": _FILES,
    "container_upload": _FILES,
    "search_result": "put what was found into a text block",
    "tool_reference": "there is no search for tools; send their definitions in tools",
    "tool_addition": "send the tools that there are in tools",
    "tool_removal": "send the tools that there are in tools",
    "browser_state": _SERVER_TOOLS,
    "server_tool_use": _SERVER_TOOLS,
    "mcp_tool_use": _SERVER_TOOLS,
    "mcp_tool_result": _SERVER_TOOLS,
    "web_search_tool_result": _SERVER_TOOLS,
    "web_fetch_tool_result": _SERVER_TOOLS,
    "code_execution_tool_result": _SERVER_TOOLS,
    "bash_code_execution_tool_result": _SERVER_TOOLS,
    "text_editor_code_execution_tool_result": _SERVER_TOOLS,
    "tool_search_tool_result": _SERVER_TOOLS,
    "mcp_tool_listing": _SERVER_TOOLS,
    "advisor_tool_result": _SERVER_TOOLS,
    "fallback": "there is one model",
    "compaction": "conversations are not made shorter here; send the messages themselves",
}
"""Types of blocks that are not served, and what to do instead."""


class Strict(BaseModel):
    """Takes no field that it does not know."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class CacheControl(BaseModel):
    """Says that a prefix is to be cached; each is, as far as the cache has room."""

    model_config = ConfigDict(extra="allow")
    type: Literal["ephemeral"]


def nothing(remedy: str, *harmless: Any) -> BeforeValidator:
    """Takes None and `harmless` values of a field, and refuses others."""

    def check(value: Any) -> Any:
        if value is not None and value not in harmless:
            raise PydanticCustomError("not_served", "cannot be served here: {remedy}", {"remedy": remedy})
        return value

    return BeforeValidator(check)


DIRECT = ({"type": "direct"}, ["direct"])
Caller = Annotated[Any, nothing("tools are called by the model alone", *DIRECT)]
ToolsetName = Annotated[Any, nothing("there are no sets of tools; send each as a custom tool")]


class CachedBlock(Strict):
    """A block whose prefix may be asked to be cached."""

    cache_control: CacheControl | None = None


class TextBlock(CachedBlock):
    """Text."""

    type: Literal["text"]
    text: str
    citations: Annotated[Any, nothing("answers cite nothing; leave it out", [])] = None


class ToolUseBlock(CachedBlock):
    """A call of a tool that the model made."""

    type: Literal["tool_use"]
    id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    input: Json
    caller: Caller = None
    toolset_name: ToolsetName = None


class ThinkingBlock(Strict):
    """Thoughts of the model. The signature is not checked: whoever writes the messages may write any of them."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Strict):
    """Thoughts that only the server that made them can read; the model is not shown them."""

    type: Literal["redacted_thinking"]
    data: str


def _refusing(value: Any, inner: Callable[[Any], T]) -> T:
    """Blocks of other types are refused by name."""
    kind = value.get("type") if isinstance(value, dict) else None
    remedy = REFUSED.get(kind) if isinstance(kind, str) else None
    if remedy is not None:
        message = "blocks of type {kind} cannot be served here: {remedy}"
        raise PydanticCustomError("not_served", message, {"kind": kind, "remedy": remedy})
    return inner(value)


def _form(value: Any) -> str | None:
    """Blank tags: errors name no part of a union that has no name."""
    return "" if isinstance(value, str) else " " if isinstance(value, list) else None


_text_or_list = Discriminator(
    _form, custom_error_type="content_type", custom_error_message="must be a text or a list of blocks"
)
Texts = Annotated[
    Annotated[str, Tag("")]
    | Annotated[list[Annotated[TextBlock, WrapValidator(_refusing)]], Field(fail_fast=True), Tag(" ")],
    _text_or_list,
]
"""A text, or text blocks."""


class ToolResultBlock(CachedBlock):
    """What a call gave."""

    type: Literal["tool_result"]
    tool_use_id: str = Field(min_length=1)
    content: Texts | None = None
    is_error: bool | None = None
    toolset_name: ToolsetName = None


Block = Annotated[
    Annotated[
        TextBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock, Field(discriminator="type")
    ],
    WrapValidator(_refusing),
]
Content = Annotated[Annotated[str, Tag("")] | Annotated[list[Block], Field(fail_fast=True), Tag(" ")], _text_or_list]
"""A text, or blocks."""

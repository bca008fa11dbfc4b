"""Messages of a conversation, as clients write them and as chat templates read them."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from typing import Any

from octavo.errors import RequestError

Message = Mapping[str, Any]
"""`role`, `content` (a text, a list of text parts, or None of an assistant), and what else the template reads, such as
`tool_calls`, whose arguments come as the text of a JSON object, and the `reasoning` of an answer."""

Content = str | list[dict[str, str]]


class ContentForm(enum.Enum):
    """How a template takes the content of a message."""

    TEXT = "string"
    """As one text."""
    PARTS = "openai"
    """As a list of parts: `[{"type": "text", "text": ...}]`."""
    EITHER = "either"
    """As it comes."""


def read_message(message: Any, number: int) -> Message:
    """The message as templates read it, itself if it is so already.

    None as the content of an assistant becomes an empty text, other fields that are None are left out, arguments of calls
    become objects, and reasoning gets both of its names.

    Args:
        message: as it came.
        number: its place in the conversation, for the error.

    Raises:
        RequestError: it is not a message, or holds something that is not text; `param` names the field.
    """
    if not isinstance(message, dict | Mapping):
        raise RequestError(f"messages[{number}] must have a role and a content", param=f"messages[{number}]")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise refusal(number, "role", "must be a text such as user")
    content = message.get("content")
    if isinstance(content, str) and len(message) == 2:
        return message
    fields = {name: value for name, value in message.items() if value is not None}
    if not isinstance(content, str):
        fields["content"] = _read_content(content, role, number)
    if calls := fields.pop("tool_calls", None):
        fields["tool_calls"] = _read_calls(calls, number)
    reasoning = fields.get("reasoning_content") or fields.get("reasoning")
    if reasoning:
        fields.update(reasoning=reasoning, reasoning_content=reasoning)
    return fields


def in_form(content: Content, form: ContentForm) -> Content:
    """`content` as `form` wants it; several parts make one text of as many lines."""
    if form is ContentForm.TEXT:
        return text_of(content, "\n")
    if form is ContentForm.PARTS and isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content


def text_of(content: Content, separator: str = "") -> str:
    """The text of all parts."""
    return content if isinstance(content, str) else separator.join(part["text"] for part in content)


def followed(content: Content, text: str) -> Content:
    """`content` with `text` at its end."""
    if isinstance(content, str):
        return content + text
    *first, last = content or [{"type": "text", "text": ""}]
    return [*first, {**last, "text": last["text"] + text}]


def size_of(messages: Sequence[Message]) -> int:
    """Characters that a client wrote into the contents; what is not text counts as nothing."""
    parts = [part for message in messages for part in _as_list(message.get("content"))]
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    return sum(len(text) for text in texts if isinstance(text, str))


def refusal(number: int, field: str, why: str) -> RequestError:
    """The error for a field of message `number`."""
    return RequestError(f"messages[{number}].{field} {why}", param=f"messages[{number}].{field}")


def _read_calls(calls: Any, number: int) -> list[dict[str, Any]]:
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise refusal(number, "tool_calls", "must be a list of calls")
    return [_read_call(call, number, place) for place, call in enumerate(calls)]


def _read_call(call: Any, number: int, place: int) -> dict[str, Any]:
    """A call with its arguments as an object, or as they are where the model wrote no object."""
    function = call.get("function") if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise refusal(number, f"tool_calls[{place}]", "must have a function with a name")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        found = _object_in(arguments)
        arguments = arguments if found is None else found
    return {"type": "function", **call, "function": {**function, "arguments": arguments}}


def _object_in(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read_content(content: Any, role: str, number: int) -> Content:
    if content is None:
        if role != "assistant":
            raise refusal(number, "content", "is missing")
        return ""
    if not isinstance(content, Sequence):
        raise refusal(number, "content", "must be a text or a list of text parts")
    return [{"type": "text", "text": _read_part(part, number, place)} for place, part in enumerate(content)]


def _read_part(part: Any, number: int, place: int) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get("text") if isinstance(part, Mapping) else None
    if kind != "text" or not isinstance(text, str):
        raise refusal(number, "content", f"holds at {place} something that is no text part, of type {str(kind)[:40]!r}")
    return text


def _as_list(content: Any) -> Sequence[Any]:
    return content if isinstance(content, list | tuple) else [content]

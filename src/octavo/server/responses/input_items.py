"""Input items of a response, as messages of chat: what one answer was is one message again."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from octavo.errors import RequestError
from octavo.server.chat_request import MAX_MESSAGES
from octavo.server.fields import Json

ROLES = ("user", "assistant", "system", "developer")
TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
"""Type of a part -> its field that holds the text."""
IGNORED = frozenset({"type", "id", "status", "phase", "annotations", "logprobs", "prompt_cache_breakpoint"})
"""Fields that a client sends back as it got them, and that no prompt shows."""
_SEALED = "octavo:"
"""Begins the thoughts of this server where a client asked for them as `encrypted_content`."""


ITEMS_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "object"}, "minItems": 1, "maxItems": MAX_MESSAGES},
    ]
}
"""How /openapi.json describes `input`."""


def seal(thoughts: str) -> str:
    """`thoughts` as text that a client keeps and sends back unread."""
    return _SEALED + base64.urlsafe_b64encode(thoughts.encode()).decode()


class Conversation:
    """Messages of chat made of `instructions` and of `given`, which is a text or a list of items.

    Raises:
        RequestError: it is neither, or an item is none, or one that cannot be served; `param` names it.
    """

    def __init__(self, given: Any, instructions: str | None = None) -> None:
        self.messages: list[Json] = []
        self.origins: list[str] = []
        """The field that each message was made of."""
        self._calls: dict[str, str] = {}
        """Names of the functions called so far, by the ids of the calls."""
        self._answering = False
        """The last message is of an assistant, and what follows may belong to it."""
        if instructions is not None:
            self._add("instructions", {"role": "system", "content": instructions})
        if isinstance(given, str):
            self._add("input", {"role": "user", "content": given})
            return
        if not isinstance(given, list) or not 1 <= len(given) <= MAX_MESSAGES:
            raise _wrong("input", f"must be a text or a list of 1 to {MAX_MESSAGES} items")
        for number, item in enumerate(given):
            self._take(item, f"input[{number}]")

    def _take(self, item: Any, where: str) -> None:
        if not isinstance(item, dict):
            raise _wrong(where, "must be an object with a type")
        kind = item.get("type") or ("message" if "role" in item else None)
        read = self._readers.get(kind) if isinstance(kind, str) else None
        if kind == "item_reference":
            raise _wrong(
                f"{where}.type", "is item_reference, but nothing is kept here: send the item itself (store false)"
            )
        if read is None:
            raise _wrong(f"{where}.type", f"is {kind!r:.60}, must be one of {', '.join(self._readers)}")
        read(item, where)

    @property
    def _readers(self) -> Mapping[str, Callable[[Json, str], None]]:
        return {
            "message": self._message,
            "function_call": self._call,
            "function_call_output": self._result,
            "reasoning": self._thoughts,
        }

    def _message(self, item: Json, where: str) -> None:
        _check_names(item, where, "role", "content")
        role = item.get("role")
        if role not in ROLES:
            raise _wrong(f"{where}.role", f"is {role!r:.60}, must be one of {', '.join(ROLES)}")
        content = _content(item.get("content"), f"{where}.content")
        last = self.messages[-1] if self._answering else {}
        if role != "assistant" or not self._answering or (last["content"] is not None and "tool_calls" not in last):
            self._add(where, {"role": role, "content": content})
            self._answering = role == "assistant"
        else:
            last["content"] = _followed(last["content"], content)

    def _thoughts(self, item: Json, where: str) -> None:
        _check_names(item, where, "summary", "content", "encrypted_content")
        text = _thoughts(item, where)
        if text:
            self._begin(where)
            self.messages[-1]["reasoning"] = text

    def _call(self, item: Json, where: str) -> None:
        _check_names(item, where, "call_id", "name", "arguments", "caller", "async")
        if item.get("caller") not in (None, {"type": "direct"}) or item.get("async"):
            raise _wrong(
                f"{where}.caller" if item.get("caller") else f"{where}.async", "cannot be served: leave it out"
            )
        call_id, name = (_text(item, field, where) for field in ("call_id", "name"))
        arguments = _text(item, "arguments", where, may_be_empty=True)
        if not self._answering:
            self._begin(where)
        function = {"name": name, "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function}
        self.messages[-1].setdefault("tool_calls", []).append(call)
        self._calls[call_id] = name

    def _result(self, item: Json, where: str) -> None:
        _check_names(item, where, "call_id", "output", "name", "caller")
        if item.get("caller") not in (None, {"type": "direct"}):
            raise _wrong(f"{where}.caller", "cannot be served: leave it out")
        call_id = _text(item, "call_id", where)
        if call_id not in self._calls:
            why = "is of no function_call before it in input; nothing is kept here, so send the call too"
            raise _wrong(f"{where}.call_id", why)
        output = _content(item.get("output"), f"{where}.output")
        self._add(where, {"role": "tool", "content": output, "tool_call_id": call_id})
        self._answering = False

    def _begin(self, where: str) -> None:
        """Begin the message of an answer."""
        self._add(where, {"role": "assistant", "content": None})
        self._answering = True

    def _add(self, where: str, message: Json) -> None:
        self.messages.append(message)
        self.origins.append(where)


def _thoughts(item: Json, where: str) -> str:
    """All that a reasoning item tells of the thoughts; of those that another server sealed, their summary."""
    if item.get("content"):
        return "".join(_texts(item["content"], f"{where}.content", {"reasoning_text": "text", "text": "text"}))
    sealed = item.get("encrypted_content")
    if sealed is None:
        return "\n\n".join(_texts(item.get("summary") or [], f"{where}.summary", {"summary_text": "text"}))
    if isinstance(sealed, str) and sealed.startswith(_SEALED):
        with contextlib.suppress(binascii.Error, UnicodeError):
            return base64.b64decode(sealed.removeprefix(_SEALED), altchars=b"-_", validate=True).decode()
    raise _wrong(f"{where}.encrypted_content", "was not made by this server: leave the item out")


def _content(given: Any, where: str) -> str | list[Json]:
    """A text, or several in parts of chat."""
    if isinstance(given, str):
        return given
    texts = _texts(given, where, TEXTS)
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _texts(given: Any, where: str, fields: Mapping[str, str]) -> list[str]:
    """The texts of parts; `fields` has the types that they may have, and where the text of each is."""
    if not isinstance(given, list):
        raise _wrong(where, "must be a text or a list of parts")
    texts = []
    for number, part in enumerate(given):
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or not isinstance(kind, str) or kind not in fields:
            raise _wrong(
                f"{where}[{number}]", f"has the type {kind!r:.60}, must be one of {', '.join(fields)}: text only"
            )
        _check_names(part, f"{where}[{number}]", fields[kind])
        texts.append(_text(part, fields[kind], f"{where}[{number}]", may_be_empty=True))
    return texts


def _followed(first: str | list[Json] | None, second: str | list[Json]) -> str | list[Json]:
    """The content of a message that goes on behind its calls."""
    if first is None:
        return second
    if isinstance(first, str) and isinstance(second, str):
        return first + second
    return [*_parts(first), *_parts(second)]


def _parts(content: str | list[Json]) -> list[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _text(item: Json, name: str, where: str, *, may_be_empty: bool = False) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not (value or may_be_empty):
        raise _wrong(f"{where}.{name}", "must be a text")
    return value


def _check_names(item: Json, where: str, *known: str) -> None:
    """Raises RequestError for a field that nothing reads."""
    odd = next(iter(_unread(item, known)), None)
    if odd is not None:
        raise _wrong(f"{where}.{odd:.60}", f"is not served; there are {', '.join(known)}")


def _unread(item: Json, known: Iterable[str]) -> Iterable[str]:
    return (name for name, value in item.items() if value is not None and name not in IGNORED and name not in known)


def _wrong(where: str, why: str) -> RequestError:
    return RequestError(f"{where} {why}", param=where)

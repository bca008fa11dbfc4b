"""Finds out what a chat template shows, by rendering messages whose contents are marks and looking for the marks.

Reading the template would not tell: it may show a message late, inside another one, or only at some places.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from octavo.errors import RequestError
from octavo.text.messages import Content, ContentForm, Message, text_of

Render = Callable[[Sequence[Message], Mapping[str, Any] | None], str]
"""Messages and template arguments to a prompt; raises RequestError if the template refuses them."""

_MARK = re.compile(r"octavomark(\d+)end", re.IGNORECASE)
"""Letters and digits only: filters of templates change at most their case."""
_USUAL = frozenset({"system", "developer", "user", "assistant", "tool"})
_LEADING = frozenset({"system", "developer"})
"""Roles that come first; others follow a user."""
_USER: Message = {"role": "user", "content": "hi"}
_MOST_LOOKED_AT = 256
"""Messages; a message further on stands as one of these does."""
_MOST_KNOWN = 1024
"""Shapes of conversations that are remembered."""
_LONGEST_KNOWN = 1000
"""Characters of one, about 30 messages."""


class TemplateProbe:
    """Asks one template. Used from several threads: at worst something is found out twice."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._forms: dict[str, ContentForm] = {}
        self._hidden: dict[str, int | None] = {}

    @functools.cached_property
    def knows_developers(self) -> bool:
        """Whether a message of a developer is shown, in the place where such messages stand."""
        forms: list[Content] = [_mark(0), _as_part(_mark(0))]
        return any("0" in _marks(self._try_role("developer", content)) for content in forms)

    def form(self, role: str) -> ContentForm:
        """How the template takes the content of messages of `role`; as text where it takes it in no way. Roles of which
        there are as many as clients invent are taken as those of users."""
        if role not in _USUAL:
            role = "user"
        if role not in self._forms:
            plain = self._try_role(role, _mark(0))
            parts = self._try_role(role, _as_part(_mark(0)))
            if plain is not None and "0" in _marks(plain):
                # A list may also be shown as Python writes it, or with other spaces around it.
                self._forms[role] = ContentForm.EITHER if parts == plain else ContentForm.TEXT
            else:
                self._forms[role] = ContentForm.PARTS if "0" in _marks(parts) else ContentForm.TEXT
        return self._forms[role]

    @functools.cached_property
    def shows_tools(self) -> bool:
        """Whether tools are shown."""
        function = {"name": _mark(0), "description": "nothing", "parameters": {"type": "object", "properties": {}}}
        return "0" in _marks(self._try([_USER], {"tools": [{"type": "function", "function": function}]}))

    @functools.cached_property
    def shows_calls(self) -> bool:
        """Whether calls in the history are shown."""
        call = {"id": "call00000", "type": "function", "function": {"name": _mark(0), "arguments": {}}}
        result = {"role": "tool", "tool_call_id": "call00000", "name": "tool", "content": "done"}
        return "0" in _marks(
            self._try([_USER, {"role": "assistant", "content": "", "tool_calls": [call]}, result], None)
        )

    @functools.cached_property
    def shows_later_systems(self) -> bool:
        """Whether a message of the system is shown that comes after one of the user."""
        content = _as_part(_mark(0)) if self.form("system") is ContentForm.PARTS else _mark(0)
        return "0" in _marks(self._try([_USER, {"role": "system", "content": content}], None))

    def first_hidden(self, messages: Sequence[Message], kwargs: Mapping[str, Any] | None) -> int | None:
        """The place of the first message whose text would not be in the prompt; None if all are.

        Args:
            messages: as `read_message` gives them, in the form that the template takes.
            kwargs: template arguments.
        """
        shape = _shape(messages, kwargs)
        if shape is not None and shape in self._hidden:
            return self._hidden[shape]
        looked_at = _telling(messages)
        text = self._try([_marked(messages[number], number) for number in looked_at], kwargs)
        shown = _marks(text)
        silent = [number for number in looked_at if _says(messages[number]) and str(number) not in shown]
        # A template that refuses marks may take the messages; if not, it says so itself.
        hidden = silent[0] if silent and text is not None else None
        if shape is not None and len(self._hidden) < _MOST_KNOWN:
            self._hidden[shape] = hidden
        return hidden

    def _try_role(self, role: str, content: Content) -> str | None:
        message = {"role": role, "content": content}
        if role in _LEADING:
            return self._try([message, _USER], None)
        return self._try([message] if role == "user" else [_USER, message], None)

    def _try(self, messages: Sequence[Message], kwargs: Mapping[str, Any] | None) -> str | None:
        try:
            return self._render(messages, kwargs)
        except RequestError:
            return None


def _mark(number: int) -> str:
    return f"octavomark{number}end"


def _as_part(text: str) -> Content:
    return [{"type": "text", "text": text}]


def _marks(text: str | None) -> set[str]:
    return set(_MARK.findall(text or ""))


def _says(message: Message) -> bool:
    """Whether it has a text that must be shown; beside calls of tools many templates show none."""
    return not message.get("tool_calls") and bool(text_of(message["content"]).strip())


def _marked(message: Message, number: int) -> Message:
    """The message with a mark for its text, if it has any."""
    if not _says(message):
        return message
    mark = _mark(number)
    return {**message, "content": mark if isinstance(message["content"], str) else _as_part(mark)}


def _telling(messages: Sequence[Message]) -> list[int]:
    """The places to look at: all, or of a very long conversation the first and those where a role is new."""
    if len(messages) <= _MOST_LOOKED_AT:
        return list(range(len(messages)))
    known = {message["role"] for message in messages[:_MOST_LOOKED_AT]}
    looked_at = list(range(_MOST_LOOKED_AT))
    for number in range(_MOST_LOOKED_AT, len(messages)):
        role = messages[number]["role"]
        if role not in known and len(looked_at) < 2 * _MOST_LOOKED_AT:
            known.add(role)
            looked_at.append(number)
    return looked_at


def _shape(messages: Sequence[Message], kwargs: Mapping[str, Any] | None) -> str | None:
    """Returns what the answer depends on; None where that may be anything, as fields of the client's."""
    if len(messages) > _LONGEST_KNOWN or any(len(message) > 2 for message in messages):
        return None
    contents = [(message["role"], isinstance(message["content"], str), _says(message)) for message in messages]
    shape = repr((contents, kwargs or None))
    return shape if len(shape) <= _LONGEST_KNOWN else None

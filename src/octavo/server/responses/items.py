"""Output items of a response: each knows the events that tell of it, and how it looks in the end."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from msgspec import Raw

from octavo.server.fields import Json
from octavo.server.responses.input_items import seal

IN_PROGRESS, COMPLETED, INCOMPLETE = "in_progress", "completed", "incomplete"


class Item(abc.ABC):
    """One output item in the making; events are dicts without their number."""

    prefix: ClassVar[str]
    """Of its id."""

    def __init__(self, base_id: str, index: int) -> None:
        self.id = f"{self.prefix}_{base_id}_{index}"
        self._index = index
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self._texts)

    def begin(self) -> list[Json]:
        """The events that open it."""
        return [{"type": "response.output_item.added", "output_index": self._index, "item": self._bare(IN_PROGRESS)}]

    @abc.abstractmethod
    def grow(self, text: str, scores: Sequence[Raw] = ()) -> Json:
        """Add `text`; the event that tells it."""

    def end(self, status: str) -> list[Json]:
        """The events that close it."""
        return [{"type": "response.output_item.done", "output_index": self._index, "item": self.shown(status)}]

    @abc.abstractmethod
    def shown(self, status: str) -> Json:
        """The whole item."""

    @abc.abstractmethod
    def _bare(self, status: str) -> Json:
        """The item without what is told of it later."""

    def _event(self, kind: str, **fields: Any) -> Json:
        return {"type": f"response.{kind}", "item_id": self.id, "output_index": self._index, **fields}


class _WithPart(Item):
    """An item whose text is in one part of its content."""

    kind: ClassVar[str]
    """The name of its events."""

    def begin(self) -> list[Json]:
        return [*super().begin(), self._event("content_part.added", content_index=0, part=self._part(""))]

    def end(self, status: str) -> list[Json]:
        part = self._part(self.text)
        told = {name: value for name, value in part.items() if name in ("text", "logprobs")}
        return [
            self._event(f"{self.kind}.done", content_index=0, **told),
            self._event("content_part.done", content_index=0, part=part),
            *super().end(status),
        ]

    @abc.abstractmethod
    def _part(self, text: str) -> Json: ...


class Thoughts(_WithPart):
    """What the model wrote for itself; sealed too, as some clients keep nothing else of it."""

    prefix = "rs"
    kind = "reasoning_text"

    def grow(self, text: str, scores: Sequence[Raw] = ()) -> Json:
        self._texts.append(text)
        return self._event("reasoning_text.delta", content_index=0, delta=text)

    def shown(self, status: str) -> Json:
        return {**self._bare(status), "content": [self._part(self.text)], "encrypted_content": seal(self.text)}

    def _bare(self, status: str) -> Json:
        empty: Json = {"summary": [], "content": [], "encrypted_content": None}
        return {"id": self.id, "type": "reasoning", "status": status, **empty}

    def _part(self, text: str) -> Json:
        return {"type": "reasoning_text", "text": text}


class Message(_WithPart):
    """What the model says."""

    prefix = "msg"
    kind = "output_text"

    def __init__(self, base_id: str, index: int) -> None:
        super().__init__(base_id, index)
        self._scores: list[Raw] = []

    def grow(self, text: str, scores: Sequence[Raw] = ()) -> Json:
        self._texts.append(text)
        self._scores += scores
        return self._event("output_text.delta", content_index=0, delta=text, logprobs=_list(scores))

    def shown(self, status: str) -> Json:
        return {**self._bare(status), "content": [self._part(self.text)]}

    def _bare(self, status: str) -> Json:
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": []}

    def _part(self, text: str) -> Json:
        scores = self._scores if text else []
        return {"type": "output_text", "annotations": [], "logprobs": _list(scores), "text": text}


class Call(Item):
    """A call of a function."""

    prefix = "fc"

    def __init__(self, base_id: str, index: int, name: str, call_id: str) -> None:
        super().__init__(base_id, index)
        self._name, self._call_id = name, call_id

    def grow(self, text: str, scores: Sequence[Raw] = ()) -> Json:
        self._texts.append(text)
        return self._event("function_call_arguments.delta", delta=text)

    def end(self, status: str) -> list[Json]:
        done = self._event("function_call_arguments.done", name=self._name, arguments=self.text)
        return [done, *super().end(status)]

    def shown(self, status: str) -> Json:
        return {**self._bare(status), "arguments": self.text}

    def _bare(self, status: str) -> Json:
        named = {"call_id": self._call_id, "name": self._name, "arguments": ""}
        return {"id": self.id, "type": "function_call", "status": status, **named}


MakeItem = Callable[[int], Item]
"""Makes an item of its index."""


def _list(scores: Sequence[Raw]) -> Raw:
    """One list of lists' insides, which are written already."""
    return Raw(b"[" + b",".join(bytes(some) for some in scores) + b"]")

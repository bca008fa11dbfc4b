"""Content blocks that the model makes, as events of a stream; a whole message is what its events add up to."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec
import pydantic_core

from octavo.answers import Answer
from octavo.answers.parsers import Content, Event, Reasoning, ToolCallArguments, ToolCallStart, joined
from octavo.answers.parsers.json_scanner import as_json
from octavo.server.chat_message import call_id
from octavo.server.fields import Json


class ContentStream:
    """Events of the blocks of one message, one block after the other.

    Args:
        request_id: of the call, from which the ids of tool calls are made.
        tells_thinking: tell the thoughts, and not only that there were some.
        short_ids: ids of tool calls have nine letters or digits.
    """

    def __init__(self, request_id: str, *, tells_thinking: bool, short_ids: bool) -> None:
        self._request_id = request_id
        self._tells_thinking = tells_thinking
        self._short_ids = short_ids
        self._index = -1
        """Of the latest block."""
        self._open: type[Event] | None = None
        """The kind of the block that goes on."""
        self._thoughts = hashlib.sha256()

    def push(self, answer: Answer, events: list[Event]) -> list[Json]:
        """What is new in `answer`."""
        return [told for event in joined(events) for told in self._tell(answer, event)]

    def close(self) -> list[Json]:
        """The end of the block that goes on, if there is one."""
        if self._open is None:
            return []
        events = []
        if self._open is Reasoning:
            signature = base64.b64encode(self._thoughts.digest()).decode()
            events.append(self._delta({"type": "signature_delta", "signature": signature}))
        self._open = None
        return [*events, {"type": "content_block_stop", "index": self._index}]

    def _tell(self, answer: Answer, event: Event) -> list[Json]:
        if isinstance(event, ToolCallStart):
            id_ = call_id(self._request_id, answer, event.index, prefix="toolu_", short=self._short_ids)
            return self._begin(ToolCallStart, {"type": "tool_use", "id": id_, "name": event.name, "input": {}})
        if isinstance(event, ToolCallArguments):
            return [self._delta({"type": "input_json_delta", "partial_json": event.text})]
        if isinstance(event, Content):
            opening = self._continue(Content, {"type": "text", "text": ""})
            return [*opening, self._delta({"type": "text_delta", "text": event.text})]
        opening = self._continue(Reasoning, {"type": "thinking", "thinking": "", "signature": ""})
        self._thoughts.update(event.text.encode("utf-8", "surrogatepass"))
        told = [self._delta({"type": "thinking_delta", "thinking": event.text})] if self._tells_thinking else []
        return opening + told

    def _continue(self, kind: type[Event], block: Json) -> list[Json]:
        """What comes before more of a block of this kind."""
        return [] if self._open is kind else self._begin(kind, block)

    def _begin(self, kind: type[Event], block: Json) -> list[Json]:
        events = self.close()
        self._open = kind
        self._index += 1
        self._thoughts = hashlib.sha256()
        return [*events, {"type": "content_block_start", "index": self._index, "content_block": block}]

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def added_up(events: Iterable[Json]) -> list[Json]:
    """The blocks that `events` tell."""
    blocks: list[Json] = []
    arguments: dict[int, list[str]] = {}
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            (_, (field, text)) = event["delta"].items()
            if field == "partial_json":
                arguments.setdefault(event["index"], []).append(text)
            else:
                blocks[event["index"]][field] += text
    for index, texts in arguments.items():
        blocks[index]["input"] = _input("".join(texts))
    return blocks


def _input(arguments: str) -> Any:
    """The object that arguments say, as the model wrote it; of those that are cut, what there is, as clients read it from a
    stream."""
    whole = as_json(arguments)
    if whole is not None:
        return msgspec.Raw(whole.encode())
    try:
        return pydantic_core.from_json(arguments, allow_inf_nan=False, allow_partial=True)
    except ValueError:
        return {}

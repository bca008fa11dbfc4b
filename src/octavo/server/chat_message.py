"""An answer's channels as a chat client reads them: in one message, or in deltas."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import msgspec

from octavo.answers import Answer, Part
from octavo.answers.parsers import Content, Event, Reasoning, ToolCallArguments, ToolCallStart, joined

SHORT_ID = 9
"""Characters of the ids of calls where the chat template wants short ones."""


class ChatMessages:
    """Messages and deltas of one call.

    Args:
        request_id: of the call, from which the ids of tool calls are made.
        include_reasoning: tell the thoughts.
        short_ids: ids of tool calls have nine letters or digits.
    """

    def __init__(self, request_id: str, *, include_reasoning: bool, short_ids: bool) -> None:
        self._request_id = request_id
        self._include_reasoning = include_reasoning
        self._short_ids = short_ids

    def message(self, answer: Answer, part: Part) -> dict[str, Any]:
        """All fields but the role."""
        events = joined(part.events)
        content = "".join(event.text for event in events if isinstance(event, Content))
        reasoning = "".join(event.text for event in events if isinstance(event, Reasoning))
        calls: list[dict[str, Any]] = []
        for event in events:
            if isinstance(event, ToolCallStart):
                calls.append(self._opened(answer, event))
            elif isinstance(event, ToolCallArguments):
                calls[-1]["function"]["arguments"] += event.text
        message: dict[str, Any] = {"content": content or (None if calls or reasoning else "")}
        if reasoning and self._include_reasoning:
            message.update(_thought(reasoning))
        if calls:
            message["tool_calls"] = calls
        return message

    def deltas(self, answer: Answer, events: list[Event]) -> list[dict[str, Any]]:
        """One delta for each run of news in one channel."""
        runs = itertools.groupby(joined(events), key=_channel)
        return [delta for _, run in runs if (delta := self._delta(answer, list(run)))]

    def _delta(self, answer: Answer, run: Sequence[Event]) -> dict[str, Any]:
        (event, *_) = run
        if isinstance(event, Content):
            return {"content": event.text}
        if isinstance(event, Reasoning):
            return _thought(event.text) if self._include_reasoning else {}
        return {"tool_calls": [self._call_delta(answer, event)]}

    def _call_delta(self, answer: Answer, event: Event) -> dict[str, Any]:
        if isinstance(event, ToolCallStart):
            return {"index": event.index, **self._opened(answer, event)}
        assert isinstance(event, ToolCallArguments)
        return {"index": event.index, "function": {"arguments": event.text}}

    def _opened(self, answer: Answer, event: ToolCallStart) -> dict[str, Any]:
        id_ = call_id(self._request_id, answer, event.index, prefix="call_", short=self._short_ids)
        return {"id": id_, "type": "function", "function": {"name": event.name, "arguments": ""}}


def call_id(request_id: str, answer: Answer, index: int, *, prefix: str, short: bool) -> str:
    """Equal for an equal call with an equal request id; another for every turn, as its prompt is another."""
    parts = [request_id, answer.index, index, answer.prompt.text]
    digest = hashlib.sha256(msgspec.json.encode(parts)).digest()
    return base64.b32encode(digest)[:SHORT_ID].decode() if short else f"{prefix}{digest.hex()[:24]}"


def _thought(text: str) -> dict[str, Any]:
    """Under both names that clients know."""
    return {"reasoning": text, "reasoning_content": text}


def _channel(event: Event) -> tuple[type[Event], int]:
    return type(event), event.index if isinstance(event, ToolCallStart | ToolCallArguments) else 0

"""Writes an answer as a Message, or as the events of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from octavo.answers import Answer, Part
from octavo.answers.parsers import Content, Event
from octavo.errors import OctavoError
from octavo.server.call import Call
from octavo.server.context import Server
from octavo.server.errors import error_object
from octavo.server.fields import Json
from octavo.server.generation import Generation
from octavo.server.json_pieces import Pieces, encode, text_pieces
from octavo.server.messages.content import ContentStream, added_up
from octavo.server.messages.failures import PATH
from octavo.server.messages.request import MessageOptions
from octavo.server.writing import GenerationWriter


class MessageWriter(GenerationWriter):
    """Writes one answer."""

    def __init__(self, server: Server, call: Call[MessageOptions], generation: Generation, request_id: str) -> None:
        super().__init__(server, generation, request_id, stream=call.body.stream)
        self._call = call
        form = call.reading.form
        self._content = ContentStream(
            request_id, tells_thinking=call.body.tells_thinking, short_ids=form is not None and form.short_ids
        )
        self._begun = False

    def _pieces(self, answers: Sequence[Answer]) -> Pieces:
        (answer,) = answers
        content = added_up(self._told(answer))
        return text_pieces(encode(self._message(content, self._end(answer), self._usage())))

    def _write(self, answer: Answer) -> list[bytes]:
        if not self._is_due(answer):
            return []
        events = [] if self._begun else [self._start()]
        self._begun = True
        return [_data(event) for event in [*events, *self._told(answer)]]

    def _ending(self) -> bytes:
        (answer,) = self._generation.answers
        delta = {"type": "message_delta", "delta": self._end(answer), "usage": self._usage()}
        return _data(delta) + _data({"type": "message_stop"})

    def _failure(self, error: OctavoError) -> bytes:
        return _data(error_object(error, self._request_id, PATH))

    def _silence(self) -> bytes:
        """A ping; before the message begins a comment, as its beginning is to be the first event."""
        return _data({"type": "ping"}) if self._begun else super()._silence()

    def _told(self, answer: Answer) -> list[Json]:
        """What is new in the content, to its end if the answer has ended."""
        events = self._events_of(answer.take_part())
        told = self._content.push(answer, events)
        return told + self._content.close() if answer.finished() else told

    def _events_of(self, part: Part) -> list[Event]:
        if self._call.only_scores:
            return []
        if self._call.reading.splits:
            return part.events
        return [Content(part.text)] if part.text else []

    def _start(self) -> Json:
        nothing = {"stop_reason": None, "stop_sequence": None}
        usage = {**self._usage(), "output_tokens": 0}
        usage.pop("output_tokens_details", None)
        return {"type": "message_start", "message": self._message([], nothing, usage)}

    def _message(self, content: list[Json], end: Json, usage: Json) -> Json:
        return {
            "id": f"msg_{self._request_id}",
            "type": "message",
            "role": "assistant",
            "model": self._server.reader.check_model(self._call.body.model),
            "content": content,
            **end,
            "usage": usage,
        }

    def _usage(self) -> Json:
        """Tokens so far. Those that the prefix cache held are apart from the others; none are paid for to be held."""
        usage = self._generation.usage()
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        told: Json = {
            "input_tokens": usage["prompt_tokens"] - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": usage["completion_tokens"],
            "service_tier": "standard",
        }
        if "completion_tokens_details" in usage:
            told["output_tokens_details"] = {
                "thinking_tokens": usage["completion_tokens_details"]["reasoning_tokens"],
            }
        return told

    def _end(self, answer: Answer) -> dict[str, Any]:
        """Why the answer ended."""
        stop = answer.stop_reason if isinstance(answer.stop_reason, str) else None
        return {"stop_reason": "stop_sequence" if stop is not None else self._reason(answer), "stop_sequence": stop}

    def _reason(self, answer: Answer) -> str:
        if answer.finish_reason == "length":
            length = len(answer.prompt.token_ids) + answer.num_tokens
            cut = length >= self._server.most_tokens and answer.num_tokens < self._call.body.max_tokens
            return "model_context_window_exceeded" if cut else "max_tokens"
        if self._call.only_scores:
            return "max_tokens"
        return "tool_use" if answer.num_calls else "end_turn"


def _data(event: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), encode(event))

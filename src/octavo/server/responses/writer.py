"""Writes a response: as one object, or as the events of a stream, each with its number."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from msgspec import Raw

from octavo.answers import Answer, Part
from octavo.errors import OctavoError
from octavo.messages import TokenScore
from octavo.server.call import Call
from octavo.server.chat_message import call_id
from octavo.server.context import Server
from octavo.server.errors import error_object
from octavo.server.fields import Json
from octavo.server.generation import Generation
from octavo.server.json_pieces import Pieces, encode, text_pieces
from octavo.server.responses.items import COMPLETED, IN_PROGRESS, INCOMPLETE
from octavo.server.responses.output import Output
from octavo.server.responses.request import ResponseOptions
from octavo.server.scores import chat_logprobs
from octavo.server.writing import SHORT_TOKENS, GenerationWriter

T = TypeVar("T")

FAILED = "failed"
SERVER_ERROR = "server_error"


class ResponseWriter(GenerationWriter):
    """Writes the one answer of `call`."""

    def __init__(self, server: Server, call: Call[ResponseOptions], generation: Generation, request_id: str) -> None:
        super().__init__(server, generation, request_id, stream=call.body.stream)
        self._told = call.body.told
        self._num_events = 0
        form = call.reading.form
        self._short_ids = form is not None and form.short_ids
        self._output = Output(
            request_id,
            splits=call.reading.splits,
            call_id=self._call_id,
            write_scores=self._scores if call.samplings[0].logprobs is not None else None,
        )
        self._head = {
            "id": f"resp_{request_id}",
            "object": "response",
            "created_at": int(time.time()),
            "model": server.reader.check_model(call.body.model),
            "system_fingerprint": server.fingerprint,
        }

    def _pieces(self, answers: Sequence[Answer]) -> Pieces:
        (answer,) = answers
        self._finish(answer)
        return text_pieces(bytes(self._whole_response(answer)))

    async def _events(self) -> AsyncIterator[bytes]:
        begun = self._response(IN_PROGRESS)
        yield self._numbered(
            [{"type": "response.created", "response": begun}, {"type": "response.in_progress", "response": begun}]
        )
        async for events in super()._events():
            if events:
                yield events

    async def _off_loop(self, answers: Sequence[Answer], write: Callable[[Sequence[Answer]], T]) -> T:
        """The last events tell again all that was told."""
        if any(answer.finished() and answer.num_tokens > SHORT_TOKENS for answer in answers):
            return await self._server.bodies.in_thread(lambda: write(answers))
        return await super()._off_loop(answers, write)

    def _write(self, answer: Answer) -> list[bytes]:
        if not self._is_due(answer):
            return []
        if not answer.finished():
            return [self._numbered(self._output.take(answer.take_part()))]
        events = self._finish(answer)
        kind = "response.completed" if _is_complete(answer) else "response.incomplete"
        return [self._numbered([*events, {"type": kind, "response": self._whole_response(answer)}])]

    def _ending(self) -> bytes:
        return b""

    def _failure(self, error: OctavoError) -> bytes:
        told = error_object(error, self._request_id)["error"]
        cause = {"code": SERVER_ERROR, "message": told["message"]}
        failed = self._response(FAILED, output=self._output.items(INCOMPLETE), error=cause)
        return self._numbered(
            [{"type": "error", **cause, "param": told["param"]}, {"type": "response.failed", "response": failed}]
        )

    def _finish(self, answer: Answer) -> list[Json]:
        """Take the last part of `answer`; the events that tell it."""
        events = self._output.take(answer.take_part(), last=True)
        return events + self._output.end(complete=_is_complete(answer))

    def _whole_response(self, answer: Answer) -> Raw:
        complete = _is_complete(answer)
        return self._response(
            COMPLETED if complete else INCOMPLETE,
            output=self._output.items(),
            usage=_usage(self._generation.usage()),
            completed_at=int(time.time()) if complete else None,
            incomplete_details=None if complete else {"reason": "max_output_tokens"},
        )

    def _response(self, status: str, **known: Any) -> Raw:
        """The object, in JSON."""
        fields: Json = {"completed_at": None, "error": None, "incomplete_details": None, "output": [], "usage": None}
        head = encode({**self._head, "status": status, **fields, **known})
        return Raw(head.removesuffix(b"}") + b"," + self._told.removeprefix(b"{"))

    def _numbered(self, events: list[Json]) -> bytes:
        """The events as the stream has them."""
        lines = []
        for event in events:
            numbered = {"type": event["type"], "sequence_number": self._num_events, **event}
            lines.append(b"event: " + event["type"].encode() + b"\ndata: " + encode(numbered) + b"\n\n")
            self._num_events += 1
        return b"".join(lines)

    def _call_id(self, index: int) -> str:
        (answer,) = self._generation.answers
        return call_id(self._request_id, answer, index, prefix="call_", short=self._short_ids)

    def _scores(self, scores: Sequence[TokenScore]) -> Raw:
        """The inside of a list of scores."""
        written = chat_logprobs(self._server.context.tokenizer, Part(scores=list(scores)))["content"]
        return Raw(bytes(written)[1:-1])


def _is_complete(answer: Answer) -> bool:
    return answer.finish_reason != "length"


def _usage(usage: Json) -> Json:
    """The numbers of chat by the names that responses have for them."""
    thoughts = usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0)
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {**usage["prompt_tokens_details"], "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": thoughts},
        "total_tokens": usage["total_tokens"],
    }

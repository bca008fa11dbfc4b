"""Writes the answers of a generation: as one JSON object, or as server-sent events."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from octavo.answers import Answer, Part
from octavo.errors import OctavoError
from octavo.server.context import Server
from octavo.server.dispatch import ClientGone, Stream
from octavo.server.errors import InternalError, error_object
from octavo.server.fields import GenerationFields
from octavo.server.generation import Generation
from octavo.server.json_pieces import JsonPieces, Pieces, encode, joined

log = logging.getLogger(__name__)

KEEP_ALIVE = b": keep-alive\n\n"
RECOVERING = b": recovering\n\n"
"""The same, while the next worker takes over."""
DONE = b"data: [DONE]\n\n"
EVENT_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

SHORT_TOKENS = 2048
"""Answers and prompts up to here are written on the event loop: a thread would take longer to wake."""

T = TypeVar("T")


class AnswerFormat(Protocol):
    """How a route writes its answers."""

    id_prefix: ClassVar[str]
    object: ClassVar[str]
    chunk_object: ClassVar[str]

    def first_chunk(self, answer: Answer) -> dict[str, Any] | None:
        """A choice to stream before the first part of an answer, if the route has one."""
        ...

    def chunks(self, answer: Answer, part: Part) -> list[dict[str, Any]]:
        """Streamed choices; none if nothing of `part` is for the reader."""
        ...

    def message(self, answer: Answer, part: Part) -> dict[str, Any]:
        """The choice of an answer that is not streamed."""
        ...

    def extras(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Fields beside `choices` in an answer that is not streamed, and in the first chunk of one that is."""
        ...


class GenerationWriter(abc.ABC):
    """Writes one generation, as a whole or as events; each protocol has its own words for both.

    Args:
        stream: the answer comes as events.
    """

    def __init__(self, server: Server, generation: Generation, request_id: str, *, stream: bool) -> None:
        self._server = server
        self._generation = generation
        self._request_id = request_id
        self._stream = stream

    async def answer(self, request: HttpRequest) -> Response:
        """Begin, and return the HTTP answer.

        Raises:
            OctavoError: the engine does not take the requests, or one of them failed before anything was sent.
            ClientGone: nobody waits for the answer.
        """
        await self._generation.begin()
        if self._stream:
            return EventStream(self._events(), self._generation)
        try:
            async with leaving(request.receive, self._generation.stream):
                return JsonPieces(await self._whole())
        finally:
            self._generation.close()

    @abc.abstractmethod
    def _pieces(self, answers: Sequence[Answer]) -> Pieces:
        """The whole."""

    @abc.abstractmethod
    def _write(self, answer: Answer) -> list[bytes]:
        """Events for what is new in `answer`; none while there is too little to tell."""

    @abc.abstractmethod
    def _ending(self) -> bytes:
        """The events after all answers."""

    @abc.abstractmethod
    def _failure(self, error: OctavoError) -> bytes:
        """The events that tell an error, and end the stream."""

    def _silence(self) -> bytes:
        """What a stream sends when it has nothing to tell: a comment."""
        return RECOVERING if self._server.context.loop.status().recovering else KEEP_ALIVE

    def _is_due(self, answer: Answer) -> bool:
        """Whether enough of `answer` is new to be told."""
        enough = len(answer.part.token_ids) >= self._server.context.settings.stream_interval
        return answer.finished() or answer.parts_taken == 0 or enough

    async def _whole(self) -> Pieces:
        generation = self._generation
        while generation.answers.running:
            await generation.advance()
        answers = list(generation.answers)
        return await self._off_loop(answers, self._pieces)

    async def _off_loop(self, answers: Sequence[Answer], write: Callable[[Sequence[Answer]], T]) -> T:
        """`write(answers)`: beside the event loop if they are long."""
        tokens = sum(len(answer.part.token_ids) for answer in answers)
        tokens += sum(len(answer.prompt.token_ids) for answer in answers if answer.parts_taken == 0)
        if tokens <= SHORT_TOKENS:
            return write(answers)
        return await self._server.bodies.in_thread(lambda: write(answers))

    async def _events(self) -> AsyncIterator[bytes]:
        """Events as they come; an error is told in an event of its own."""
        generation = self._generation
        try:
            while generation.answers.running:
                touched = await generation.advance()
                events = await self._off_loop(touched, self._write_all)
                if events or not touched:
                    yield events or self._silence()
            yield self._ending()
        except OctavoError as error:
            yield self._failure(error)
        except ClientGone:
            raise
        except Exception:
            log.exception("request %s failed", self._request_id)
            yield self._failure(InternalError())

    def _write_all(self, answers: Sequence[Answer]) -> bytes:
        return b"".join([event for answer in answers for event in self._write(answer)])


class AnswerWriter(GenerationWriter):
    """Writes one generation in one of OpenAI's formats."""

    def __init__(
        self,
        server: Server,
        body: GenerationFields,
        answer_format: AnswerFormat,
        generation: Generation,
        request_id: str,
    ) -> None:
        super().__init__(server, generation, request_id, stream=bool(body.stream))
        self._body = body
        self._format = answer_format
        self._wrote_extras = False
        self._head = {
            "id": f"{answer_format.id_prefix}-{request_id}",
            "object": answer_format.chunk_object if body.stream else answer_format.object,
            "created": int(time.time()),
            "model": server.reader.check_model(body.model),
            "system_fingerprint": server.fingerprint,
        }

    def _pieces(self, answers: Sequence[Answer]) -> Pieces:
        """One object, with a piece for each choice."""
        choices = [encode(self._format.message(answer, answer.take_part())) for answer in answers]
        head = encode({**self._head, "choices": []}).removesuffix(b"]}")
        rest = encode({"usage": self._generation.usage(), **self._format.extras(answers)}).removeprefix(b"{")
        return joined([head, choices[0], *(part for choice in choices[1:] for part in (b",", choice)), b"],", rest])

    def _ending(self) -> bytes:
        usage = self._event([], usage=self._generation.usage()) if self._wants_usage else b""
        return usage + DONE

    def _failure(self, error: OctavoError) -> bytes:
        return _data(error_object(error, self._request_id)) + DONE

    @property
    def _wants_usage(self) -> bool:
        return self._body.wants_usage_chunk or self._server.context.settings.enable_force_include_usage

    def _write(self, answer: Answer) -> list[bytes]:
        if not self._is_due(answer):
            return []
        events = []
        first_chunk = self._format.first_chunk(answer) if answer.parts_taken == 0 else None
        if first_chunk is not None:
            events.append(self._event([first_chunk]))
        return events + [self._event([choice]) for choice in self._format.chunks(answer, answer.take_part())]

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        chunk: dict[str, Any] = {**self._head, "choices": choices}
        if not self._wrote_extras:
            self._wrote_extras = True
            chunk.update(self._format.extras(list(self._generation.answers)))
        if self._body.wants_running_usage:
            usage = self._generation.usage()
        if usage is not None or self._wants_usage:
            chunk["usage"] = usage
        return _data(chunk)


class EventStream(Response):
    """Sends events until the last one or until the client leaves; ends the generation either way."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], generation: Generation) -> None:
        super().__init__(headers=EVENT_HEADERS)
        del self.headers["content-length"]
        self._events = events
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with leaving(receive, self._generation.stream):
                async for events in self._events:
                    await send({"type": "http.response.body", "body": events, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._generation.close()


@contextlib.asynccontextmanager
async def leaving(receive: Receive, stream: Stream) -> AsyncIterator[None]:
    """Meanwhile, tell `stream` when the client closes its connection."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        stream.leave()

    watcher = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watcher.cancel()


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + encode(value) + b"\n\n"

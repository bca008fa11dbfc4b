"""The engine requests of one HTTP request: opens them, gathers their answers, ends them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any

from octavo.answers import Answer, AnswerSet
from octavo.engine.request import Request
from octavo.engine.update import FinishReason, Update
from octavo.errors import OctavoError, OverloadedError, WorkerDiedError
from octavo.grammar import Grammar
from octavo.server.call import Call
from octavo.server.context import Server
from octavo.server.dispatch import Stream
from octavo.server.errors import not_accepted

TURN = 64
"""Answers that are ended before others have their turn: a fraction of a millisecond."""


class Generation:
    """`n` answers to each prompt, prompt by prompt. After `begin` it must be closed.

    Raises:
        RequestError: there are stop strings without a tokenizer.
    """

    def __init__(self, server: Server, call: Call[Any], request_id: str) -> None:
        self._server = server
        self._call = call
        self._arrival_s = time.monotonic()
        self._stream: Stream | None = None
        self._failed = False
        self._grammar: Grammar | None = None
        stops = call.samplings[0].stop
        self.answers = AnswerSet(request_id, server.context.tokenizer, stops, self._arrival_s, reading=call.reading)

    @property
    def stream(self) -> Stream:
        assert self._stream is not None, "begin() comes first"
        return self._stream

    async def begin(self) -> None:
        """Hand all requests to the engine.

        Raises:
            RequestError, OverloadedError: the form of the answers cannot be served, or it does not take them; nothing is left behind.
        """
        context = self._server.context
        # All prompts of a call have one form.
        self._grammar = await self._server.compile(self._call.samplings[0].structured_outputs)
        try:
            self._stream = await context.dispatcher.open(context.loop, self._requests())
        except OverloadedError:
            context.metrics.on_rejection()
            raise
        except WorkerDiedError as error:
            raise not_accepted(error) from error
        for sampling in self._call.samplings:
            context.metrics.on_request(sampling.n, sampling.max_tokens)

    async def advance(self) -> list[Answer]:
        """Wait for news; the answers that have any (none: the wait was long).

        Raises:
            OctavoError: one of the requests failed.
            ClientGone: nobody waits for the answers.
        """
        updates = await self.stream.take()
        now_s = time.monotonic()
        try:
            touched = [answer for update in updates if (answer := self._take(update, now_s)) is not None]
        except OctavoError:
            self._failed = True
            raise
        return list(dict.fromkeys(touched))

    def usage(self) -> dict[str, Any]:
        """Tokens so far; each prompt counts once, whatever n is."""
        firsts = self.answers.firsts
        prompt_tokens = sum(len(answer.prompt.token_ids) for answer in firsts)
        made = 0 if self._call.only_scores else self.answers.num_tokens
        cached = sum(answer.num_cached_tokens for answer in firsts)
        usage: dict[str, Any] = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": made,
            "total_tokens": prompt_tokens + made,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        if self._call.reading.reasoning is not None:
            usage["completion_tokens_details"] = {"reasoning_tokens": self.answers.num_reasoning_tokens}
        return usage

    def close(self) -> None:
        """End what still runs."""
        if self._stream is None:
            return
        self._stream.close()
        self._stream = None
        self._end_some(answer for answer in self.answers if not answer.finished())
        self._server.context.metrics.on_call(max(answer.num_tokens for answer in self.answers))

    def _requests(self) -> Iterator[Request]:
        for prompt, sampling in zip(self._call.prompts, self._call.samplings, strict=True):
            yield from self.answers.requests_for(prompt, sampling, self._grammar)

    def _take(self, update: Update, now_s: float) -> Answer | None:
        """Give an answer its news; return it, or None if it had ended.

        Raises:
            OctavoError: the request ended with it instead of an answer.
        """
        answer = self.answers[update.request_id]
        if not answer.finished() and update.finish_reason is FinishReason.ABORT:
            raise OverloadedError("the server is shutting down before the answer was complete")
        first, last_s = answer.first_s is None, answer.last_s
        if not self.answers.take(update, now_s):
            return None
        if first:
            self._server.context.metrics.on_first_token(now_s - self._arrival_s)
        else:
            self._server.context.metrics.on_tokens(now_s - last_s, len(update.tokens))
        if answer.finish_reason is not None:
            self.stream.stop(answer.request_id)
            self._end(answer, answer.finish_reason)
        return answer

    def _end_some(self, left: Iterator[Answer]) -> None:
        """Tell the ends of those that were not answered, `TURN` in a turn of the event loop."""
        some = list(itertools.islice(left, TURN))
        for answer in some:
            self._end(answer, "error" if self._failed else "abort")
        if len(some) == TURN:
            asyncio.get_running_loop().call_soon(self._end_some, left)

    def _end(self, answer: Answer, reason: str) -> None:
        self._server.context.metrics.on_end(answer, reason, self._arrival_s, time.monotonic())
        self._server.log_answer(answer, reason)

"""The engine requests of one HTTP request: opens them, gathers their answers, ends them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

from octavo.engine.request import Request
from octavo.engine.update import Update
from octavo.errors import OctavoError, OverloadedError, RequestError, WorkerDiedError
from octavo.sampling import SamplingParams, each_alone
from octavo.server.answer import Answer, Prompt
from octavo.server.context import Server
from octavo.server.dispatch import Stream
from octavo.server.errors import not_accepted
from octavo.text import Detokenizer, StopStrings

_serials = itertools.count(1)
TURN = 64
"""Answers that are made or ended before others have their turn: a fraction of a millisecond."""


class Generation:
    """`n` answers to each prompt, prompt by prompt. After `begin` it must be closed.

    `only_scores`: the token that the engine makes for each is not told, and not counted.
    """

    def __init__(
        self,
        server: Server,
        prompts: Sequence[Prompt],
        samplings: Sequence[SamplingParams],
        request_id: str,
        *,
        only_scores: bool = False,
    ) -> None:
        self._server = server
        self._samplings = samplings
        self._arrival_s = time.monotonic()
        self._stream: Stream | None = None
        self._failed = False
        self._only_scores = only_scores
        self.prompts = prompts
        self.requests: list[Request] = []
        self.answers: dict[str, Answer] = {}
        """By id in the engine, in the order of their index."""
        self.running = 0
        """Answers without a finish reason."""
        self._base_id = f"{request_id}.{next(_serials)}"

    @property
    def stream(self) -> Stream:
        assert self._stream is not None, "begin() comes first"
        return self._stream

    @property
    def has_logprobs(self) -> bool:
        return self._samplings[0].logprobs is not None

    async def begin(self) -> None:
        """Hand all requests to the engine.

        Raises:
            RequestError, OverloadedError: it does not take them, or there are stop strings without a tokenizer; nothing is
                left behind.
        """
        context = self._server.context
        await self._build()
        try:
            self._stream = await context.dispatcher.open(context.loop, self.requests)
        except OverloadedError:
            context.metrics.on_rejection()
            raise
        except WorkerDiedError as error:
            raise not_accepted(error) from error
        for sampling in self._samplings:
            context.metrics.on_request(sampling.n, sampling.max_tokens)

    async def advance(self) -> list[Answer]:
        """Wait for news; the answers that have any (none: the wait was long).

        Raises:
            OctavoError: one of the requests failed.
            ClientGone: nobody waits for the answers.
        """
        updates = await self.stream.take()
        now_s = time.monotonic()
        touched: dict[str, Answer] = {}
        try:
            for update in updates:
                answer = self.answers[update.request_id]
                if answer.finish_reason is None:
                    self._feed(answer, update, now_s)
                    touched[update.request_id] = answer
        except OctavoError:
            self._failed = True
            raise
        return list(touched.values())

    def usage(self) -> dict[str, Any]:
        """Tokens so far; each prompt counts once, whatever n is."""
        prompt_tokens = sum(len(prompt.token_ids) for prompt in self.prompts)
        made = 0 if self._only_scores else sum(answer.num_tokens for answer in self.answers.values())
        per_prompt = len(self.answers) // len(self.prompts)
        cached = sum(answer.num_cached_tokens for answer in list(self.answers.values())[::per_prompt])
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": made,
            "total_tokens": prompt_tokens + made,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def close(self) -> None:
        """End what still runs."""
        if self._stream is None:
            return
        self._stream.close()
        self._stream = None
        self._end_some(answer for answer in self.answers.values() if answer.finish_reason is None)
        self._server.context.metrics.on_call(max(answer.num_tokens for answer in self.answers.values()))

    async def _build(self) -> None:
        """Make the engine requests and the answers that wait for them, `TURN` in a turn of the event loop."""
        stops = StopStrings(self._samplings[0].stop)
        if stops and self._server.context.tokenizer.vocab_size == 0:
            raise RequestError("stop strings need a tokenizer, which the model lacks: use stop_token_ids", param="stop")
        for prompt, sampling in zip(self.prompts, self._samplings, strict=True):
            for alone in each_alone(sampling):
                index = len(self.answers)
                request_id = f"{self._base_id}.{index}"
                self.requests.append(Request(request_id, prompt.token_ids, alone, self._arrival_s))
                self.answers[request_id] = Answer(index, request_id, prompt, self._detokenizer(prompt, sampling, stops))
                if index % TURN == TURN - 1:
                    await asyncio.sleep(0)
        self.running = len(self.answers)

    def _detokenizer(self, prompt: Prompt, sampling: SamplingParams, stops: StopStrings) -> Detokenizer:
        return Detokenizer(
            self._server.context.tokenizer,
            stop=stops,
            include_stop_str_in_output=sampling.include_stop_str_in_output,
            skip_special_tokens=sampling.skip_special_tokens,
            min_tokens=sampling.min_tokens,
            context=prompt.token_ids,
        )

    def _feed(self, answer: Answer, update: Update, now_s: float) -> None:
        first, last_s = answer.first_s is None, answer.last_s
        answer.feed(update, now_s)
        if first:
            self._server.context.metrics.on_first_token(now_s - self._arrival_s)
        else:
            self._server.context.metrics.on_tokens(now_s - last_s, len(update.tokens))
        if answer.finish_reason is not None:
            self.stream.stop(answer.request_id)
            self.running -= 1
            self._end(answer, answer.finish_reason)

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

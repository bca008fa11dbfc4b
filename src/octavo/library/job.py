"""A prompt and the n requests that answer it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable

from octavo.engine.request import Request
from octavo.engine.update import FinishReason, Update
from octavo.errors import RequestError
from octavo.messages import TokenScore
from octavo.outputs import CompletionOutput, Logprobs, RequestMetrics, RequestOutput, to_logprobs
from octavo.sampling import RequestOutputKind, SamplingParams, each_alone
from octavo.server.answer import Answer, Part, Prompt
from octavo.text import Detokenizer, NoTokenizer, StopStrings, Tokenizer
from octavo.text.tokenizer import token_text

_serials = itertools.count(1)


class Job:
    """Makes the requests, takes what the engine says of them, and tells it as vLLM does.

    Args:
        request_id: of the output; the engine's ids begin with it.
        prompt: what is to be answered.
        sampling: how; is copied.
        tokenizer: the model's.

    Raises:
        RequestError: the settings cannot be served.
    """

    def __init__(self, request_id: str, prompt: Prompt, sampling: SamplingParams, tokenizer: Tokenizer) -> None:
        self.request_id = request_id
        self.sampling = sampling = sampling.clone()
        self._prompt = prompt
        self._tokenizer = tokenizer if sampling.detokenize else NoTokenizer()
        if sampling.stop and tokenizer.vocab_size == 0:
            raise RequestError("stop strings need a tokenizer, which the model lacks: use stop_token_ids", param="stop")
        stop = StopStrings(sampling.stop)
        # The engine may still be ending a request of the same name.
        base = f"{request_id}.{next(_serials)}"
        names = [f"{base}.{index}" if sampling.n > 1 else base for index in range(sampling.n)]
        self.answers = {name: self._answer(index, name, stop) for index, name in enumerate(names)}
        """By id in the engine."""
        self._told_logprobs = dict.fromkeys(names, 0.0)
        """Sums over what `news` has told."""
        self._told_ends: set[str] = set()
        self._metrics = RequestMetrics(time.monotonic())

    @property
    def finished(self) -> bool:
        return all(answer.finish_reason is not None for answer in self.answers.values())

    @property
    def aborted(self) -> bool:
        """One of them was ended from outside."""
        return any(answer.finish_reason == FinishReason.ABORT.value for answer in self.answers.values())

    @property
    def num_tokens(self) -> int:
        """Tokens made so far, over all answers."""
        return sum(answer.num_tokens for answer in self.answers.values())

    def requests(self) -> Iterable[Request]:
        """One request per answer."""
        sampling = self.sampling.replace(
            detokenize=True, output_kind=RequestOutputKind.CUMULATIVE, stream_interval=None
        )
        for request_id, alone in zip(self.answers, each_alone(sampling), strict=True):
            yield Request(request_id, self._prompt.token_ids, alone)

    def take(self, update: Update) -> bool:
        """Add news; True if the answer has ended.

        Raises:
            RequestFailedError, WorkerDiedError: it ended with an error.
        """
        now = time.monotonic()
        answer = self.answers[update.request_id]
        if update.finish_reason is FinishReason.ABORT:
            answer.finish_reason = FinishReason.ABORT.value
        else:
            answer.feed(update, now)
            self._metrics.last_token_time = now
            if self._metrics.first_token_time is None:
                self._metrics.first_token_time = now
        if self.finished:
            self._metrics.finished_time = now
        return answer.finish_reason is not None

    def output(self) -> RequestOutput:
        """All of the answers so far."""
        return self._output([self._completion(answer, answer.part) for answer in self.answers.values()])

    def news(self) -> RequestOutput:
        """What is new in the answers since the last call, without those in which nothing is."""
        outputs = []
        for name, answer in self.answers.items():
            ended = answer.finish_reason is not None and name not in self._told_ends
            if ended or answer.part.token_ids or answer.part.text:
                outputs.append(self._completion(answer, part := answer.take_part()))
                self._told_logprobs[name] += _logprob(part)
            if ended:
                self._told_ends.add(name)
        return self._output(outputs)

    def _output(self, outputs: list[CompletionOutput]) -> RequestOutput:
        first = next(iter(self.answers.values()))
        scores = first.prompt_scores
        return RequestOutput(
            request_id=self.request_id,
            prompt=self._prompt.text,
            prompt_token_ids=list(self._prompt.token_ids),
            prompt_logprobs=None if scores is None else [None, *map(self._logprobs, scores)],
            outputs=outputs,
            finished=self.finished,
            metrics=self._metrics,
            num_cached_tokens=first.num_cached_tokens,
        )

    def _answer(self, index: int, request_id: str, stop: StopStrings) -> Answer:
        sampling = self.sampling
        detokenizer = Detokenizer(
            self._tokenizer,
            stop=stop,
            include_stop_str_in_output=sampling.include_stop_str_in_output,
            skip_special_tokens=sampling.skip_special_tokens,
            min_tokens=sampling.min_tokens,
            context=self._prompt.token_ids,
        )
        return Answer(index, request_id, self._prompt, detokenizer)

    def _completion(self, answer: Answer, part: Part) -> CompletionOutput:
        asked = self.sampling.logprobs is not None
        return CompletionOutput(
            index=answer.index,
            text=part.text,
            token_ids=list(part.token_ids),
            cumulative_logprob=self._told_logprobs[answer.request_id] + _logprob(part) if asked else None,
            logprobs=[self._logprobs(score) for score in part.scores if score is not None] if asked else None,
            finish_reason=answer.finish_reason,
            stop_reason=answer.stop_reason,
        )

    def _logprobs(self, score: TokenScore) -> Logprobs:
        return to_logprobs(score, self._token_text)

    def _token_text(self, token_id: int) -> str | None:
        return token_text(self._tokenizer, token_id) if self.sampling.detokenize else None


def _logprob(part: Part) -> float:
    return sum(score.logprob for score in part.scores if score is not None)

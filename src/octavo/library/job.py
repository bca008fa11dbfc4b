"""A prompt and the n requests that answer it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from octavo.answers import Answer, AnswerSet, Part, Prompt
from octavo.engine.request import Request
from octavo.engine.update import FinishReason, Update
from octavo.grammar import Compiler
from octavo.messages import TokenScore
from octavo.outputs import CompletionOutput, Logprobs, RequestMetrics, RequestOutput, to_logprobs
from octavo.sampling import SamplingParams
from octavo.text import NoTokenizer, Tokenizer
from octavo.text.bad_words import forbidden_ids
from octavo.text.tokenizer import token_text


class Job:
    """Makes the requests, takes what the engine says of them, and tells it as vLLM does.

    Args:
        request_id: of the output; the engine's ids begin with it.
        prompt: what is to be answered.
        sampling: how; is copied.
        tokenizer: the model's.
        compiler: of what the settings say of the answer's form; takes as long as it takes.

    Raises:
        RequestError: the settings cannot be served.
    """

    def __init__(
        self, request_id: str, prompt: Prompt, sampling: SamplingParams, tokenizer: Tokenizer, compiler: Compiler
    ) -> None:
        self.request_id = request_id
        self.sampling = sampling = sampling.clone()
        self._prompt = prompt
        if sampling.bad_words:
            sampling.bad_word_ids = [*sampling.bad_word_ids, *forbidden_ids(sampling.bad_words, tokenizer)]
        self._tokenizer = tokenizer if sampling.detokenize else NoTokenizer()
        self._metrics = RequestMetrics(time.monotonic())
        self._answers = AnswerSet(
            request_id, self._tokenizer, sampling.stop, self._metrics.arrival_time, numbered=sampling.n > 1
        )
        self.requests: Sequence[Request] = list(
            self._answers.requests_for(prompt, sampling, compiler.compile_if_asked(sampling.structured_outputs))
        )
        """One for each answer."""
        self._told_logprobs = dict.fromkeys(self.answer_ids, 0.0)
        """Sums over what `news` has told."""
        self._told_ends: set[str] = set()

    @property
    def answer_ids(self) -> Sequence[str]:
        """Ids of the requests in the engine."""
        return [request.request_id for request in self.requests]

    @property
    def finished(self) -> bool:
        return self._answers.running == 0

    @property
    def aborted(self) -> bool:
        """One of them was ended from outside."""
        return any(answer.finish_reason == FinishReason.ABORT.value for answer in self._answers)

    @property
    def num_tokens(self) -> int:
        """Tokens made so far, over all answers."""
        return self._answers.num_tokens

    def take(self, update: Update) -> bool:
        """Add news; True if they end their answer.

        Raises:
            RequestFailedError, WorkerDiedError: it ended with an error.
        """
        now = time.monotonic()
        if not self._answers.take(update, now):
            return False
        if update.tokens:
            self._metrics.last_token_time = now
            if self._metrics.first_token_time is None:
                self._metrics.first_token_time = now
        if self.finished:
            self._metrics.finished_time = now
        return self._answers[update.request_id].finished()

    def output(self) -> RequestOutput:
        """All of the answers so far."""
        return self._output([self._completion(answer, answer.part) for answer in self._answers])

    def news(self) -> RequestOutput:
        """Returns the outputs in which something is new since the last call."""
        outputs = []
        for answer in self._answers:
            name = answer.request_id
            ended = answer.finished() and name not in self._told_ends
            if ended or answer.part.token_ids or answer.part.text:
                outputs.append(self._completion(answer, part := answer.take_part()))
                self._told_logprobs[name] += _logprob(part)
            if ended:
                self._told_ends.add(name)
        return self._output(outputs)

    def _output(self, outputs: list[CompletionOutput]) -> RequestOutput:
        first = next(iter(self._answers))
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

    def _completion(self, answer: Answer, part: Part) -> CompletionOutput:
        asked = self.sampling.num_scores is not None
        ranked = self.sampling.logprob_token_ids is None
        return CompletionOutput(
            index=answer.index,
            text=part.text,
            token_ids=list(part.token_ids),
            cumulative_logprob=self._told_logprobs[answer.request_id] + _logprob(part) if asked else None,
            logprobs=[self._logprobs(score, ranked=ranked) for score in part.scores if score is not None]
            if asked
            else None,
            finish_reason=answer.finish_reason,
            stop_reason=answer.stop_reason,
        )

    def _logprobs(self, score: TokenScore, *, ranked: bool = True) -> Logprobs:
        return to_logprobs(score, self._token_text, ranked=ranked)

    def _token_text(self, token_id: int) -> str | None:
        return token_text(self._tokenizer, token_id) if self.sampling.detokenize else None


def _logprob(part: Part) -> float:
    return sum(score.logprob for score in part.scores if score is not None)

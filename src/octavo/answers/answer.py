"""One answer in the making: the engine's tokens become text, its channels, scores and a finish reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from octavo.answers.parsers import AnswerParser, Event
from octavo.answers.prompt import Prompt
from octavo.engine.update import FinishReason, Update
from octavo.errors import RequestFailedError
from octavo.messages import TokenScore
from octavo.text.detokenizer import Detokenizer


@dataclasses.dataclass(slots=True)
class Part:
    """Holds the text, tokens and scores that are new in an answer since its last part was taken."""

    text: str = ""
    """As the model wrote it."""
    events: list[Event] = dataclasses.field(default_factory=list)
    """The same split into channels, where it is."""
    token_ids: list[int] = dataclasses.field(default_factory=list)
    scores: list[TokenScore | None] = dataclasses.field(default_factory=list)
    offsets: list[int] = dataclasses.field(default_factory=list)
    """Characters of the answer before each token."""
    steps: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    """What there was of the text, in characters, and of the events once each token was read."""


class Answer:
    """One of the n answers to one prompt; `index` is its place among all choices of the call."""

    def __init__(
        self,
        index: int,
        request_id: str,
        prompt: Prompt,
        make_detokenizer: Callable[[], Detokenizer],
        make_parser: Callable[[], AnswerParser] | None = None,
    ) -> None:
        self.index = index
        self.request_id = request_id
        """Its id in the engine."""
        self.prompt = prompt
        self.part = Part()
        self.parts_taken = 0
        self._told: list[str] = []
        self.num_tokens = 0
        self.num_reasoning_tokens = 0
        self.num_calls = 0
        """Calls of tools so far."""
        self.num_cached_tokens = 0
        self.num_preemptions = 0
        self.prompt_scores: Sequence[TokenScore] | None = None
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None
        self.first_s: float | None = None
        """When its first token came (time.monotonic)."""
        self.last_s = 0.0
        self.queue_s = 0.0
        self._make_detokenizer = make_detokenizer
        self._make_parser = make_parser
        self._detokenizer: Detokenizer | None = None
        """From the first news to the end: most of many answers wait, or have ended."""
        self._parser: AnswerParser | None = None
        """The same."""

    @property
    def text(self) -> str:
        """All of it, told or not."""
        return "".join([*self._told, self.part.text])

    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.finish_reason is not None

    def feed(self, update: Update, now_s: float) -> None:
        """Take in news from the engine.

        Raises:
            OctavoError: the request ended with it instead of an answer.
        """
        if update.finish_reason is FinishReason.ERROR:
            raise update.error or RequestFailedError("the engine gave no reason")
        if update.finish_reason is FinishReason.ABORT:
            self.finish_reason = FinishReason.ABORT.value
            return
        if self.first_s is None:
            self._take_first(update, now_s)
        self.last_s = now_s
        self.num_preemptions = update.num_preemptions
        self._read(update, self._detokenizer or self._make_detokenizer())

    def take_part(self) -> Part:
        """Returns the part that is new, and begins the next one."""
        part, self.part = self.part, Part()
        self.parts_taken += 1
        self._told.append(part.text)
        return part

    def _take_first(self, update: Update, now_s: float) -> None:
        self.first_s = now_s
        self.num_cached_tokens = update.num_cached_tokens
        self.queue_s = update.queue_s or 0.0
        self.prompt_scores = update.prompt_scores
        if self._make_parser is not None:
            self._parser = self._make_parser()

    def _read(self, update: Update, detokenizer: Detokenizer) -> None:
        """Turn new tokens into text, up to the end if there is one."""
        part = self.part
        last = len(update.tokens) - 1
        for position, token in enumerate(update.tokens):
            ends = position == last and update.finish_reason is FinishReason.STOP
            self.num_tokens += 1
            part.token_ids.append(token.token_id)
            part.scores.append(token.score)
            self._add(detokenizer.push_stop(token.token_id) if ends else detokenizer.push(token.token_id))
            part.offsets.append(detokenizer.offset)
            part.steps.append((len(part.text), len(part.events)))
            if detokenizer.stop is not None or self._has_all_calls:
                break
        if update.finish_reason is not None:
            self.finish_reason, self.stop_reason = update.finish_reason.value, update.stop_token_id
        if detokenizer.stop is not None or self._has_all_calls:
            self.finish_reason, self.stop_reason = "stop", detokenizer.stop
        if not self.finished():
            self._detokenizer = detokenizer
            return
        self._add(detokenizer.finish())
        if self._parser is not None:
            part.events += self._parser.finish()
            self.num_calls = self._parser.num_calls
        self._detokenizer = self._parser = None

    @property
    def _has_all_calls(self) -> bool:
        return self._parser is not None and self._parser.done

    def _add(self, text: str) -> None:
        """Add the text of a token."""
        self.part.text += text
        parser = self._parser
        if parser is None:
            return
        inside = parser.reasoning
        self.part.events += parser.feed(text)
        self.num_calls = parser.num_calls
        if inside and parser.reasoning:
            self.num_reasoning_tokens += 1

"""All answers of one call: makes the engine's request for each, and gives each the news of its request."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from octavo.answers.answer import Answer
from octavo.answers.prompt import Prompt
from octavo.answers.reading import Reading
from octavo.engine.request import Request
from octavo.engine.update import Update
from octavo.errors import RequestError
from octavo.grammar import Grammar
from octavo.sampling import RequestOutputKind, SamplingParams, each_alone
from octavo.text import Detokenizer, StopStrings, Tokenizer

_serials = itertools.count(1)
NOT_THE_ENGINES: Mapping[str, Any] = {
    "stop": [],
    "detokenize": True,
    "output_kind": RequestOutputKind.CUMULATIVE,
    "stream_interval": None,
    "structured_outputs": None,
    "bad_words": [],
}
"""Settings of how tokens are read: the engine makes them, and gets a copy of its settings for each answer."""


class AnswerSet:
    """Answers by the ids of their requests in the engine, in the order of their index.

    Args:
        request_id: of the call; the engine's ids begin with it, and no other set has them.
        tokenizer: makes text of tokens.
        stop: strings that end an answer, whichever prompt it continues.
        arrival_s: when the call arrived (time.monotonic).
        reading: splits their texts into channels; None: nothing does.
        numbered: ids end with the index of the answer; else there is one answer, and its id stands alone.

    Raises:
        RequestError: there are stop strings, but no tokenizer to find them with.
    """

    def __init__(
        self,
        request_id: str,
        tokenizer: Tokenizer,
        stop: Sequence[str],
        arrival_s: float,
        *,
        reading: Reading | None = None,
        numbered: bool = True,
    ) -> None:
        if stop and tokenizer.vocab_size == 0:
            raise RequestError("stop strings need a tokenizer, which the model lacks: use stop_token_ids", param="stop")
        self.running = 0
        """Answers without a finish reason."""
        self.num_tokens = 0
        """Tokens made so far, over all answers."""
        self.num_reasoning_tokens = 0
        """Those of them that were thoughts."""
        self.firsts: list[Answer] = []
        """The first answer to each prompt: it knows what became of the prompt."""
        self._base_id = f"{request_id}.{next(_serials)}"
        self._numbered = numbered
        self._tokenizer = tokenizer
        self._stop = StopStrings(stop)
        self._arrival_s = arrival_s
        self._make_parser = reading.parser if reading is not None and reading.splits else None
        self._shown_ids = reading.shown_ids(tokenizer) if reading is not None else frozenset[int]()
        self._answers: dict[str, Answer] = {}

    def __len__(self) -> int:
        return len(self._answers)

    def __iter__(self) -> Iterator[Answer]:
        return iter(self._answers.values())

    def __getitem__(self, request_id: str) -> Answer:
        return self._answers[request_id]

    def requests_for(
        self, prompt: Prompt, sampling: SamplingParams, grammar: Grammar | None = None
    ) -> Iterator[Request]:
        """Make a request for each of the `n` answers to `prompt`; the set holds the answer of each from then on.

        `grammar`: what `sampling.structured_outputs` was compiled to.
        """
        assert (grammar is None) == (sampling.structured_outputs is None)
        detokenizer = partial(
            Detokenizer,
            self._tokenizer,
            stop=self._stop,
            include_stop_str_in_output=sampling.include_stop_str_in_output,
            skip_special_tokens=sampling.skip_special_tokens,
            shown_ids=self._shown_ids,
            min_tokens=sampling.min_tokens,
            context=prompt.token_ids,
        )
        for number, alone in enumerate(each_alone(sampling.replace(**NOT_THE_ENGINES))):
            index = len(self._answers)
            request_id = f"{self._base_id}.{index}" if self._numbered else self._base_id
            answer = self._answers[request_id] = Answer(index, request_id, prompt, detokenizer, self._make_parser)
            if number == 0:
                self.firsts.append(answer)
            self.running += 1
            yield Request(
                request_id, prompt.token_ids, alone, self._arrival_s, grammar, prompt.cache_salt, prompt.priority
            )

    def take(self, update: Update, now_s: float) -> bool:
        """Give an answer its news; False if it had ended: the engine may still tell of one that a stop string has ended.

        Raises:
            OctavoError: the request ended with it instead of an answer.
        """
        answer = self._answers[update.request_id]
        if answer.finished():
            return False
        tokens, reasoning = answer.num_tokens, answer.num_reasoning_tokens
        answer.feed(update, now_s)
        self.num_tokens += answer.num_tokens - tokens
        self.num_reasoning_tokens += answer.num_reasoning_tokens - reasoning
        if answer.finished():
            self.running -= 1
        return True

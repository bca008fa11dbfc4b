"""What a request must answer, computed alone from the mock's pure function, and ways to run an engine to its end."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterable

from octavo.config import EngineConfig
from octavo.engine import Engine, FinishReason, Request, Update
from octavo.engine.acceptance import accept
from octavo.errors import OctavoError
from octavo.messages import SampledToken, StepResult, TokenScore
from octavo.sampling import SamplingParams
from octavo.testing.mock_model import digest, mock_score, mock_token
from octavo.testing.mock_worker import MockWorker


class PacedWorker(MockWorker):
    """Gives as many more results as `let` allows, which other threads may set; None: all."""

    _given = 0
    _most: int | None = None

    @property
    def let(self) -> int | None:
        return None if self._most is None else max(0, self._most - self._given)

    @let.setter
    def let(self, more: int | None) -> None:
        self._most = None if more is None else self._given + more

    def receive(self, timeout_s: float | None) -> StepResult | None:
        while self.let == 0:
            self._check_alive()
            time.sleep(0.002)
            if timeout_s is not None:
                return None
        result = super().receive(timeout_s)
        self._given += result is not None
        return result


def config(**changes: object) -> EngineConfig:
    """A small engine with room for anything a test does."""
    small = {"vocab_size": 97, "eos_token_ids": (96,), "max_model_len": 2100, "num_blocks": 1000}
    return EngineConfig(**{**small, **changes})  # type: ignore[arg-type]


def request(request_id: str, prompt: Iterable[int], **sampling: object) -> Request:
    return Request(request_id, list(prompt), SamplingParams(**{"temperature": 0.0, **sampling}))  # type: ignore[arg-type]


@dataclasses.dataclass
class Outcome:
    """All that a request was told."""

    tokens: list[tuple[int, TokenScore | None]] = dataclasses.field(default_factory=list)
    reason: FinishReason | None = None
    stop_token_id: int | None = None
    prompt_scores: list[TokenScore] | None = None
    error: OctavoError | None = dataclasses.field(default=None, compare=False)
    num_cached_tokens: int = dataclasses.field(default=0, compare=False)

    @property
    def token_ids(self) -> list[int]:
        return [token for token, _score in self.tokens]

    def take(self, update: Update) -> None:
        assert self.reason is None, f"{update} after the end"
        assert update.tokens or update.finish_reason, "an update without news"
        self.tokens += [(token.token_id, token.score) for token in update.tokens]
        self.reason = update.finish_reason
        self.stop_token_id = update.stop_token_id
        self.error = update.error
        self.num_cached_tokens = update.num_cached_tokens
        if update.prompt_scores is not None:
            assert len(self.tokens) == 1, "prompt scores come with the first token"
            self.prompt_scores = list(update.prompt_scores)


def alone(asked: Request, limits: EngineConfig, bad_tokens: Collection[int] = ()) -> Outcome:
    """What `asked` answers if nothing disturbs it."""
    sequence = accept(asked, limits)
    sampling, history, outcome = sequence.sampling, list(sequence.tokens), Outcome()
    if not set(bad_tokens).isdisjoint(history):
        return Outcome(reason=FinishReason.ERROR)
    if sampling.prompt_logprobs is not None:
        outcome.prompt_scores = [
            mock_score(digest(history[:i]), history[i], sampling.prompt_logprobs, limits.vocab_size)
            for i in range(1, len(history))
        ]
    while outcome.reason is None:
        made = len(outcome.tokens)
        if made and outcome.token_ids[-1] in bad_tokens:
            outcome.reason = FinishReason.ERROR
            break
        barred = completing(sampling.bad_word_ids, outcome.token_ids)
        if not set(sampling.allowed_token_ids or range(limits.vocab_size)) - barred:
            outcome.reason = FinishReason.ERROR
            outcome.prompt_scores = outcome.prompt_scores if made else None
            break
        token = mock_token(
            digest(history),
            len(history),
            made,
            sampling,
            sequence.stop_ids,
            limits.vocab_size,
            barred=barred,
        )
        history.append(token.token_id)
        outcome.tokens.append((token.token_id, token.score))
        if token.token_id in sequence.stop_ids and made >= sampling.min_tokens:
            outcome.reason = FinishReason.STOP
            is_eos = token.token_id in limits.eos_token_ids and not sampling.ignore_eos
            outcome.stop_token_id = None if is_eos else token.token_id
        elif len(history) == sequence.limit:
            outcome.reason = FinishReason.LENGTH
    return outcome


def completing(words: Iterable[Collection[int]], made: list[int]) -> set[int]:
    """Ids that would complete one of `words` behind the tokens made, tried one by one."""
    return {word[-1] for word in map(list, words) if [*made, word[-1]][-len(word) :] == word}


def collect(outcomes: dict[str, Outcome], updates: list[Update]) -> None:
    for update in updates:
        outcomes.setdefault(update.request_id, Outcome()).take(update)


def finish(engine: Engine, outcomes: dict[str, Outcome] | None = None, check_every: int = 1) -> dict[str, Outcome]:
    """Step until nothing is left to do, checking the books after every step and that all is free at the end."""
    outcomes = {} if outcomes is None else outcomes
    for step in range(200_000):
        if not engine.has_work:
            break
        collect(outcomes, engine.step())
        if step % check_every == 0:
            engine.check_invariants()
    assert not engine.has_work, "starved"
    assert all(outcome.reason for outcome in outcomes.values())
    status = engine.status()
    assert (status.free_blocks, status.running, status.waiting) == (status.total_blocks, 0, 0)
    return outcomes


def serve(engine: Engine, requests: Iterable[Request], check_every: int = 1) -> dict[str, Outcome]:
    """Add all of `requests`, then run to the end."""
    for asked in requests:
        engine.add(asked)
    return finish(engine, check_every=check_every)


def sampled(slot: int, token: int) -> SampledToken:
    return SampledToken(slot, token, None)

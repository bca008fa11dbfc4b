"""The outputs that `LLM.generate` returns and `AsyncLLM.generate` yields, with the names and fields that vLLM's users know."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from octavo.messages import TokenScore


@dataclasses.dataclass(frozen=True)
class Logprob:
    """Log-probability of a token at one position."""

    logprob: float
    rank: int | None
    """1 for the likeliest."""
    decoded_token: str | None


Logprobs = dict[int, Logprob]
"""Token id to its logprob: the chosen (or given) token first, then the likeliest."""


@dataclasses.dataclass
class CompletionOutput:
    """One answer to a prompt."""

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    """Of the whole answer so far, also where the rest is only what is new."""
    logprobs: list[Logprobs] | None
    finish_reason: str | None = None
    """`stop`, `length`, or `abort` of a stream that `AsyncLLM.abort` has ended; None: there is more to come."""
    stop_reason: int | str | None = None
    """The stop id or stop string that ended it; None for EOS."""
    lora_request: None = None

    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.finish_reason is not None


@dataclasses.dataclass
class RequestMetrics:
    """Times in seconds on the clock of `time.monotonic`."""

    arrival_time: float
    first_token_time: float | None = None
    last_token_time: float | None = None
    finished_time: float | None = None

    @property
    def first_token_latency(self) -> float | None:
        """Seconds from arrival to the first token."""
        return None if self.first_token_time is None else self.first_token_time - self.arrival_time


@dataclasses.dataclass
class RequestOutput:
    """A prompt and its n answers."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[Logprobs | None] | None
    """One per prompt token; None for the first."""
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestMetrics
    num_cached_tokens: int
    """Tokens of the prompt that were not computed, as another request had them."""
    lora_request: None = None


def to_logprobs(score: TokenScore, text_of: Callable[[int], str | None], *, ranked: bool = True) -> Logprobs:
    """`score` as vLLM's mapping; `ranked`: the tokens beside its own are the likeliest, in order."""
    entries: list[tuple[int, float, int | None]] = [(score.token_id, score.logprob, score.rank)]
    ranks = range(1, len(score.top) + 1) if ranked else [None] * len(score.top)
    entries += [(token_id, logprob, rank) for rank, (token_id, logprob) in zip(ranks, score.top, strict=True)]
    logprobs: Logprobs = {}
    for token_id, logprob, rank in entries:
        logprobs.setdefault(token_id, Logprob(logprob, rank, text_of(token_id)))
    return logprobs

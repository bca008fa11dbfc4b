"""A request inside the engine: its token history, which is all that matters, and its state, which can be rebuilt."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from octavo.bad_words import BadWords
from octavo.engine.prefix import Entry, root_of
from octavo.engine.request import Request
from octavo.engine.update import FinishReason
from octavo.errors import WorkerDiedError
from octavo.messages import PromptScores, TokenScore
from octavo.sampling import SamplingParams

NEVER = 1 << 62
"""A token count that no sequence reaches."""


class Waiting:
    """Not on the worker: new, or with nothing computed after a preemption or a recovery."""

    __slots__ = ("after_step", "num_tokens", "was_running")

    def __init__(self, num_tokens: int, after_step: int = 0, *, was_running: bool = False) -> None:
        self.num_tokens = num_tokens
        """Tokens it has in the queue."""
        self.was_running = was_running
        """It ran when its worker died: the bounds of the queue are for those that never had a place."""
        self.after_step = after_step
        """May run once the result of this step is in: until then a token of the history may be unknown."""


class Running:
    """Holds the slot and the KV blocks of a sequence that runs. Preemption drops it as a whole."""

    __slots__ = (
        "ahead_at",
        "blocks",
        "capacity",
        "chain",
        "computed",
        "last",
        "pending",
        "planned",
        "prefill_end",
        "register_at",
        "restore",
        "sequence",
        "slot",
        "unbounded",
        "waits",
    )

    def __init__(self, sequence: Sequence, slot: int, blocks: list[int], block_size: int, hits: list[Entry]) -> None:
        self.sequence = sequence
        self.slot = slot
        self.blocks = blocks
        """The block table; the first len(hits) come from the prefix cache."""
        self.capacity = len(blocks) * block_size
        """Positions that `blocks` can hold."""
        self.planned = len(hits) * block_size
        """Positions that plans have covered, from 0."""
        self.computed = self.planned
        """Positions whose result is in."""
        self.prefill_end = len(sequence.tokens)
        """Positions before it are prefill, the others decode."""
        self.last = sequence.limit - 1
        """The position that is never computed: the token there ends the sequence by length."""
        self.register_at = self.planned + block_size
        """Computed positions at which the next block is full and may enter the prefix index."""
        self.chain: Entry | None = hits[-1] if hits else None
        """Where the last block stands in the prefix index."""
        self.restore = hits[-1].snapshot if hits else None
        """The snapshot that its first chunk goes on from, until that is planned."""
        self.unbounded = False
        """No threshold holds its prefill back."""
        self.waits = False
        """All of its history is computed, and its next token is sampled once it is known which ids it may be."""
        self.ahead_at = 0
        """Positions from it on are planned before it is known which ids may follow; those before it only then."""
        self.pending: dict[int, int] = {}
        """Number of tokens -> the snapshot that gets the states behind them, until it is kept in the prefix index."""


class Finished:
    """Ended; whatever still arrives for it is dropped."""

    __slots__ = ("reason",)

    def __init__(self, reason: FinishReason) -> None:
        self.reason = reason


State = Waiting | Running | Finished


class Sequence:
    """An accepted request: limits resolved, history growing by one token per sampling step."""

    __slots__ = (
        "allowed",
        "arrival_s",
        "bad_words",
        "cache_root",
        "grammar",
        "limit",
        "num_cached_tokens",
        "num_preemptions",
        "num_prompt_tokens",
        "priority",
        "prompt_scores",
        "queue_s",
        "request_id",
        "sampling",
        "state",
        "stop_ids",
        "tokens",
    )

    def __init__(
        self, request: Request, prompt: array[int], sampling: SamplingParams, stop_ids: frozenset[int]
    ) -> None:
        assert sampling.max_tokens is not None
        self.request_id = request.request_id
        self.arrival_s = request.arrival_s
        self.priority = request.priority
        """Lower ones come first."""
        self.tokens = prompt
        """The history: prompt tokens, then the tokens made. Owned. An array is no work for the garbage collector."""
        self.num_prompt_tokens = len(prompt)
        self.limit = len(prompt) + sampling.max_tokens
        """Tokens, prompt included, at which it ends."""
        self.cache_root = root_of(request.cache_salt)
        """Where its chain in the prefix index begins."""
        self.grammar = request.grammar
        self.allowed: tuple[int, bytes] | None = None
        """With a grammar: a number of tokens, and the ids that may come after so many, as `StepMasks.masks`."""
        self.bad_words = BadWords(sampling.bad_word_ids)
        self.sampling = sampling
        """With a seed (unless greedy) and max_tokens."""
        self.stop_ids = stop_ids
        """Ids that end it, EOS included unless ignored."""
        self.num_cached_tokens = 0
        """Prompt tokens found in the prefix cache when it first ran."""
        self.num_preemptions = 0
        """How often it has lost its KV blocks to others."""
        self.queue_s: float | None = None
        """Seconds from arrival until it first ran; None before."""
        self.prompt_scores: list[TokenScore | None] | None = None
        """Scores of prompt tokens 1 .. n-1, if asked for and not yet handed out."""
        if sampling.prompt_logprobs is not None:
            self.prompt_scores = [None] * (len(prompt) - 1)
        self.state: State = Waiting(len(prompt))

    def can_sample_after(self, num_tokens: int) -> bool:
        """Whether it is known which ids may come after `num_tokens` tokens."""
        return self.grammar is None or (self.allowed is not None and self.allowed[0] == num_tokens)

    def mask(self) -> bytes | None:
        """With a grammar: the ids that may come next, as `StepMasks.masks`; None if that is not known, or nothing comes."""
        if self.allowed is None or self.allowed[0] != len(self.tokens) or isinstance(self.state, Finished):
            return None
        return self.allowed[1]

    def ids_left(self, ids: Iterable[int]) -> set[int]:
        """Those of `ids` that the settings of the request let come next."""
        allowed = self.sampling.allowed_token_ids
        left = set(ids) if allowed is None else set(allowed).intersection(ids)
        if self.num_made_tokens < self.sampling.min_tokens:
            left -= self.stop_ids
        return left.difference(self.bad_words.completing(self.tokens, self.num_prompt_tokens))

    def wait_again(self) -> None:
        """The worker is gone: nothing is computed any more, and no result will come."""
        was_running = isinstance(self.state, Running) or (isinstance(self.state, Waiting) and self.state.was_running)
        self.state = Waiting(len(self.tokens), was_running=was_running)

    def keep_scores(self, scores: PromptScores) -> None:
        """Put scores of a chunk in their place; after a preemption or a recovery they may come again.

        Raises:
            WorkerDiedError: there is no such place.
        """
        kept = self.prompt_scores
        if kept is None:
            return
        first, end = scores.start - 1, scores.start - 1 + len(scores.scores)
        if not 0 <= first <= end <= len(kept):
            raise WorkerDiedError(f"the worker scored prompt tokens {first + 1} .. {end} of {self.num_prompt_tokens}")
        kept[first:end] = scores.scores

    @property
    def num_made_tokens(self) -> int:
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def reads_prefix_cache(self) -> bool:
        """Prompt scores come from computing every prompt position, so a cached prefix cannot serve them."""
        return self.sampling.prompt_logprobs is None

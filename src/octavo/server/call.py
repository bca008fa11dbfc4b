"""A call of a generation route, once its body is read: prompts as token ids, with the settings of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Generic, TypeVar

from octavo.answers import Prompt, Reading
from octavo.config import EngineConfig
from octavo.errors import PromptTooLongError, RequestError
from octavo.sampling import SamplingParams
from octavo.server.body import BodyReader

B = TypeVar("B")

MAX_ANSWERS = 16384
"""Most answers of one call, over all its prompts."""
MAX_CALL_TOKENS = 1 << 23
"""Most prompt tokens of one call, each prompt counted once for each of its answers: about 300 MB in the engine."""
MAX_CALL_IDS = 1 << 20
"""The same for entries of `logit_bias` and of lists of ids: about 100 MB in the engine."""


@dataclasses.dataclass(frozen=True, slots=True)
class Call(Generic[B]):
    """`n` answers to each prompt."""

    body: B
    """What of it the answers are written by, without what has become prompts and settings."""
    prompts: list[Prompt]
    samplings: list[SamplingParams]
    """One for each prompt."""
    reading: Reading = Reading()
    """How the answers are split into channels."""
    only_scores: bool = False
    """The token that the engine makes for each prompt is not told, and not counted."""

    def checked(self, config: EngineConfig) -> Call[B]:
        """This call.

        Raises:
            RequestError: it is too much for one, or for the queue that `config` allows, however empty that is.
        """
        prompts, samplings = self.prompts, self.samplings
        count = sum(sampling.n for sampling in samplings)
        if count > MAX_ANSWERS:
            raise RequestError(
                f"n asks for {count} answers over all prompts, at most {MAX_ANSWERS} in a call", param="n"
            )
        tokens = sum(s.n * len(p.token_ids) for p, s in zip(prompts, samplings, strict=True))
        if tokens > MAX_CALL_TOKENS:
            raise RequestError(
                f"n asks for {tokens} prompt tokens over all answers, at most {MAX_CALL_TOKENS}", param="n"
            )
        self._check_queue("answers over all prompts", count, "max_num_queued_reqs", config.max_num_queued_reqs)
        if count > 1:  # an empty queue takes one request of any size
            self._check_queue(
                "prompt tokens over all answers", tokens, "max_num_queued_tokens", config.max_num_queued_tokens
            )
        ids = sum(s.n * _num_ids(s) for s in samplings)
        if ids > MAX_CALL_IDS:
            raise RequestError(
                f"logit_bias, stop_token_ids, allowed_token_ids and bad_words have {ids} entries over all answers, at most "
                f"{MAX_CALL_IDS} in a call",
                param="logit_bias",
            )
        return self

    def _check_queue(self, what: str, count: int, setting: str, bound: int | None) -> None:
        if bound is None or count <= bound:
            return
        param = "n" if any(sampling.n > 1 for sampling in self.samplings) else "prompt"
        raise RequestError(
            f"{param} asks for {count} {what}, and no more than {bound} may wait here ({setting}); ask for fewer in a call",
            param=param,
        )


def _num_ids(sampling: SamplingParams) -> int:
    words = sum(map(len, sampling.bad_word_ids))
    return len(sampling.logit_bias) + len(sampling.stop_token_ids) + len(sampling.allowed_token_ids or ()) + words


def tokenize(
    reader: BodyReader, text: str, *, add_special_tokens: bool, param: str = "prompt", cut: bool = False
) -> Sequence[int]:
    """Token ids of `text`; a text that cannot fit is refused unread, unless it is going to be `cut`.

    Raises:
        RequestError: too long, or not text.
    """
    longest, limit = reader.tokenizer.longest_token, reader.most_tokens
    if longest is not None and not cut and len(text) > limit * longest:
        raise PromptTooLongError(
            f"{param} has {len(text)} characters, more than {limit} tokens can hold: at most {limit} tokens fit",
            param=param,
            num_tokens=-(-len(text) // longest),
            most=limit - 1,
        )
    try:
        return reader.tokenizer.encode(text, add_special_tokens=add_special_tokens)
    except RequestError as error:
        error.param = param
        raise


def bounded(
    reader: BodyReader,
    sampling: SamplingParams,
    prompt: Prompt,
    asked: tuple[str, int | None],
    *,
    default: int | None = None,
    cut: bool = False,
) -> SamplingParams:
    """`sampling` with the max_tokens that `prompt` leaves room for; `asked` is the client's field and value. `cut`: more than
    fits is cut to it, by the engine, and not refused.

    Raises:
        RequestError: the client asked for more than fits; the message has both numbers.
    """
    name, wanted = asked
    length, limit = len(prompt.token_ids), reader.most_tokens
    if wanted is not None and length < limit < length + wanted and not cut:
        raise RequestError(
            f"{name} is {wanted} and the prompt has {length} tokens, together {length + wanted}, but a request may have "
            f"at most {limit} tokens",
            param=name,
        )
    bound = reader.default_sampling.max_tokens
    most = [value for value in (default if wanted is None else wanted, bound) if value is not None]
    max_tokens = min(most, default=None)
    if max_tokens is None or max_tokens == sampling.max_tokens:
        return sampling
    if max_tokens < sampling.min_tokens and wanted is None:
        max_tokens = sampling.min_tokens
    return sampling.replace(max_tokens=max_tokens)

"""The model of the mock worker: tokens and scores as functions of what came before, which tests compute for themselves."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection

import msgspec
import numpy as np

from octavo.messages import SampledToken, TokenScore
from octavo.sampling import SamplingParams


def digest(token_ids: Collection[int], start: int = 0) -> int:
    """A 32-bit digest of a token history; `start` is the digest of the tokens before."""
    return zlib.crc32(np.asarray(token_ids, dtype="<i8").tobytes(), start)


def mock_token(
    history: int,
    position: int,
    num_made: int,
    sampling: SamplingParams,
    stop_ids: Collection[int],
    vocab_size: int,
    allowed: bytes | None = None,
    barred: Collection[int] = (),
) -> SampledToken:
    """next_token = f(tokens so far, sampling parameters, seed, position); `history` is the digest of the tokens so far.

    `allowed` are the ids to choose from, as `StepMasks.masks` (None: all), `barred` those that may not come. The slot of the
    answer is 0.

    Raises:
        ValueError: no id is left to choose.
    """
    draw = zlib.crc32(struct.pack("<qq", sampling.seed or 0, position), history)
    token = draw % vocab_size
    if allowed is not None or barred or sampling.allowed_token_ids is not None:
        choice = sorted(set(sampling.allowed_token_ids or range(vocab_size)).difference(barred))
        if allowed is not None:
            choice = [id_ for id_ in choice if allowed[id_ // 8] >> id_ % 8 & 1]
        if not choice:
            raise ValueError("no id is left to choose")
        token = choice[draw % len(choice)]
    while num_made < sampling.min_tokens and token in stop_ids:
        token = (token + 1) % vocab_size
    num_top = sampling.num_scores
    score = None if num_top is None else mock_score(history, token, num_top, vocab_size)
    if score is not None and sampling.logprob_token_ids is not None:
        top = [(id_, -((history ^ id_) % 1024) / 64) for id_ in sampling.logprob_token_ids]
        score = msgspec.structs.replace(score, top=top)
    return SampledToken(0, token, score)


def mock_score(history: int, token: int, num_top: int, vocab_size: int) -> TokenScore:
    """Scores that are a function of their arguments, as for a token of a prompt as for one that was made, and look like
    log-probabilities."""
    top = [((token + i) % vocab_size, -i / 8) for i in range(num_top)]
    return TokenScore(token, -(history % 1024) / 64, 1 + history % 7, top)

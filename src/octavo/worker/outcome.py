"""What became of rows of logits: first as tensors on the device, then as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch

from octavo.messages import TokenScore
from octavo.worker.scores import Scores


@dataclasses.dataclass(frozen=True)
class Target:
    """One row of logits and what it is for."""

    slot: int
    row: int
    """Of the hidden states."""
    position: int
    """Of the token that the row predicts, in its request."""
    num_top: int | None
    """How many likeliest tokens to report; None: no score at all."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """R targets whose logits were computed together, on the device."""

    targets: Sequence[Target]
    token_ids: torch.Tensor
    """(R,) int64, sampled or known."""
    ok: torch.Tensor
    """(R,) bool: the numbers were finite."""
    scores: Scores
    """Of the targets that want one, in order."""

    @property
    def tensors(self) -> list[torch.Tensor]:
        scores = self.scores
        return [self.token_ids, self.ok, scores.logprobs, scores.ranks, scores.top_ids, scores.top_logprobs]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One target, answered."""

    target: Target
    token_id: int
    ok: bool
    score: TokenScore | None


def read_outcomes(pieces: Sequence[Piece], host: Iterator[torch.Tensor]) -> Iterator[Outcome]:
    """The outcomes of all targets, in order; `host` gives the pieces' tensors on the CPU, in the order of `tensors`."""
    for piece in pieces:
        token_ids, ok, logprobs, ranks, top_ids, top_logprobs = (next(host).tolist() for _ in piece.tensors)
        scored = iter(zip(logprobs, ranks, top_ids, top_logprobs, strict=True))
        for target, token_id, fine in zip(piece.targets, token_ids, ok, strict=True):
            score = None
            if target.num_top is not None:
                logprob, rank, ids, values = next(scored)
                score = TokenScore(token_id, logprob, rank, list(zip(ids, values, strict=True))[: target.num_top])
            yield Outcome(target, token_id, fine, score)

"""Rows of logits and what became of each: first as tensors on the device, then as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from octavo.messages import TokenScore
from octavo.worker.sampling.scores import Scores


class LogitRow(NamedTuple):
    """One row of logits and what it is for."""

    slot: int
    hidden_row: int
    """Of the hidden states."""
    position: int
    """Of the token that the row predicts, in its request."""
    num_top: int | None
    """How many tokens to report besides its own, the likeliest or those asked for; None: no score at all."""


@dataclasses.dataclass(frozen=True)
class SampledBatch:
    """R rows whose logits were computed together, and the token of each, on the device."""

    rows: Sequence[LogitRow]
    token_ids: torch.Tensor
    """(R,) int64, sampled or known."""
    finite: torch.Tensor
    """(R,) bool: the numbers could be used."""
    scores: Scores
    """Of the rows that want one, in order."""

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that `read_results` needs on the host."""
        scores = self.scores
        return [self.token_ids, self.finite, scores.logprobs, scores.ranks, scores.top_ids, scores.top_logprobs]


class RowResult(NamedTuple):
    """The token of one row, on the host."""

    row: LogitRow
    token_id: int
    finite: bool
    score: TokenScore | None


def read_results(batches: Sequence[SampledBatch], host: Iterator[torch.Tensor]) -> Iterator[RowResult]:
    """Yield the result of every row, in order.

    Args:
        batches: as they were sampled.
        host: gives the `tensors` of each batch on the CPU, in the same order.
    """
    for batch in batches:
        token_ids, finite, logprobs, ranks, top_ids, top_logprobs = (next(host).tolist() for _ in batch.tensors)
        scored = iter(zip(logprobs, ranks, top_ids, top_logprobs, strict=True))
        for row, token_id, usable in zip(batch.rows, token_ids, finite, strict=True):
            score = None
            if row.num_top is not None:
                logprob, rank, ids, values = next(scored)
                score = TokenScore(token_id, logprob, rank, list(zip(ids, values, strict=True))[: row.num_top])
            yield RowResult(row, token_id, usable, score)

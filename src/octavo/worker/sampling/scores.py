"""Log-probabilities under the raw distribution."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from octavo.ops.draw.fixed_point import ONE, below_max, fixed_point_exp
from octavo.ops.largest import largest
from octavo.ops.upload import upload

MAX_SCORED = 2**24
"""Most logits that are scored at once: bounds the memory of that, which is several times theirs."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of R chosen tokens, each with the n likeliest of its row."""

    logprobs: torch.Tensor
    """(R,) float32, natural logarithm."""
    ranks: torch.Tensor
    """(R,) int64, 1 for the likeliest; among equals the lower id comes first."""
    top_ids: torch.Tensor
    """(R, n) int64, likeliest first, or as asked for."""
    top_logprobs: torch.Tensor
    """(R, n) float32"""

    @classmethod
    def none(cls, device: torch.device) -> Scores:
        """Of no tokens."""
        ids, logprobs = torch.empty((0, 0), dtype=torch.int64, device=device), torch.empty((0, 0), device=device)
        return cls(logprobs.flatten(), ids.flatten(), ids, logprobs)


def score(logits: torch.Tensor, token_ids: torch.Tensor, n: int, asked: Sequence[Sequence[int]] = ()) -> Scores:
    """log_softmax(logits)[token] with its rank, and the n likeliest, of `MAX_SCORED` logits at a time.

    Each row alone decides its bits: maxima, integer sums and comparisons have no order.

    Args:
        logits: (R, V) float32, finite (a row that is not gives numbers without meaning, and harms no other); not written.
        token_ids: (R,) int64 in 0..V-1, on the same device.
        n: how many of the likeliest, 0..V.
        asked: (R) ids in 0..V-1, at most n of them, which stand first instead of the likeliest; empty: nowhere.
    """
    pieces = []
    rows = max(1, MAX_SCORED // logits.shape[1])
    for first in range(0, max(1, len(logits)), rows):
        part = slice(first, first + rows)
        pieces.append(_score(logits[part], token_ids[part], n, asked[part]))
    return pieces[0] if len(pieces) == 1 else Scores(*map(torch.cat, zip(*map(_fields, pieces), strict=True)))


def _fields(scores: Scores) -> tuple[torch.Tensor, ...]:
    return scores.logprobs, scores.ranks, scores.top_ids, scores.top_logprobs


def _score(logits: torch.Tensor, token_ids: torch.Tensor, n: int, asked: Sequence[Sequence[int]]) -> Scores:
    """See `score`."""
    column = token_ids[:, None]
    shifted = below_max(logits)
    top_ids = _likeliest(logits, n)
    cells = [(row, place, id_) for row, ids in enumerate(asked) for place, id_ in enumerate(ids)]
    if cells:
        rows, places, wanted = upload(torch.tensor(cells), logits.device).T
        top_ids[rows, places] = wanted
    top = shifted.gather(1, top_ids)
    own = shifted.gather(1, column)
    ids = torch.arange(logits.shape[1], device=logits.device)
    ranks = 1 + (shifted > own).sum(-1) + ((shifted == own) & (ids < column)).sum(-1)
    total = fixed_point_exp(shifted).sum(-1, keepdim=True)
    log_total = (total.double() / ONE).log()
    return Scores((own - log_total).float()[:, 0], ranks, top_ids, (top - log_total).float())


def _likeliest(logits: torch.Tensor, n: int) -> torch.Tensor:
    """(R, n) int64 ids of the largest logits, largest first, the lower id first among equals."""
    if n == 0:
        return torch.empty((len(logits), 0), dtype=torch.int64, device=logits.device)
    return largest(logits, n)

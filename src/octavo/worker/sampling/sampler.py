"""The choice of the next token."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from octavo.ops.draw import DrawSettings, draw, draw_truncated
from octavo.ops.upload import upload
from octavo.worker.sampling.adjust import Row, adjust_logits
from octavo.worker.sampling.counter_rng import uniform
from octavo.worker.sampling.counts import TokenCounts
from octavo.worker.sampling.finite import finite_and_highest

SMALL = 1024
"""Largest top_k for which the likeliest ids are picked out; more are found by sorting all."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """Holds what was sampled from R rows."""

    token_ids: torch.Tensor
    """(R,) int64 in 0..V-1; without meaning where `finite` is not set."""
    finite: torch.Tensor
    """(R,) bool: the logits were finite and left at least one id to choose."""


def sample(logits: torch.Tensor, rows: Sequence[Row], counts: TokenCounts | None = None) -> Choice:
    """One token per row, by the row's own settings.

    Greedy rows take the largest adjusted logit, the lower id among equals. Random rows: with p_i = exp((x_i - max x) / T),
    drop p_i < min_p; keep the top_k likeliest (lower ids first among equals); keep the shortest head of them whose mass
    reaches top_p; then invert the cumulative mass at the row's one uniform number. Mass is counted in integers (`fixed_point.py`),
    so the bits of a row depend on that row alone.

    Args:
        logits: (R, V) float32; not written.
        rows: (R)
        counts: of the tokens of requests with penalties; needed if a row has a slot; read.
    """
    finite, highest = finite_and_highest(logits)
    if any(row.is_adjusted for row in rows):
        logits = adjust_logits(logits, rows, counts)
        highest = logits.amax(-1)
    finite = finite & (highest > -torch.inf)
    token_ids = logits.argmax(-1) if any(row.sampling.greedy for row in rows) else torch.zeros_like(highest).long()
    for belongs, choose in (
        (_is_plain, _draw_plain),
        (_has_small_top_k, _draw_likeliest),
        (_is_truncated, _draw_truncated),
    ):
        indices = [index for index, row in enumerate(rows) if belongs(row)]
        if len(indices) == len(rows):
            token_ids = choose(logits, rows, highest)
        elif indices:
            where = upload(torch.tensor(indices), logits.device)
            token_ids[where] = choose(logits[where], [rows[index] for index in indices], highest[where])
    return Choice(token_ids, finite)


def _has_small_top_k(row: Row) -> bool:
    """Whether the likeliest few ids are all that can be drawn."""
    return not row.sampling.greedy and 0 < row.sampling.top_k <= SMALL


def _is_truncated(row: Row) -> bool:
    """Whether the order of all ids by likelihood is needed."""
    truncated = row.sampling.top_k > 0 or row.sampling.top_p < 1
    return not row.sampling.greedy and truncated and not _has_small_top_k(row)


def _is_plain(row: Row) -> bool:
    return not (row.sampling.greedy or _has_small_top_k(row) or _is_truncated(row))


def _draw_plain(logits: torch.Tensor, rows: Sequence[Row], highest: torch.Tensor) -> torch.Tensor:
    """(R,) int64 from all ids that min_p leaves, in order of id."""
    return draw(logits, _settings(rows, logits.device), highest)


def _draw_likeliest(logits: torch.Tensor, rows: Sequence[Row], highest: torch.Tensor) -> torch.Tensor:
    """`_draw_truncated` of rows whose top_k is small: what it does not leave has no mass, and need not be ordered."""
    return draw_truncated(logits, _settings(rows, logits.device), highest, most=max(row.sampling.top_k for row in rows))


def _draw_truncated(logits: torch.Tensor, rows: Sequence[Row], highest: torch.Tensor) -> torch.Tensor:
    """(R,) int64 from what min_p, top_k and top_p leave, likeliest first."""
    return draw_truncated(logits, _settings(rows, logits.device), highest, most=0)


def _settings(rows: Sequence[Row], device: torch.device) -> DrawSettings:
    """With the uniform number of each row's token."""
    chosen = [row.sampling for row in rows]
    numbers = uniform([sampling.seed or 0 for sampling in chosen], [row.position for row in rows]).tolist()
    return DrawSettings.of(
        [
            (sampling.temperature, sampling.min_p, max(sampling.top_k, 0), sampling.top_p, number)
            for sampling, number in zip(chosen, numbers, strict=True)
        ],
        device,
    )

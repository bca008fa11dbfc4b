"""The choice of the next token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from octavo.ops.draw import draw
from octavo.ops.draw.cpu import invert, masses
from octavo.ops.largest import largest
from octavo.ops.upload import upload
from octavo.worker.sampling.adjust import Row, adjust_logits
from octavo.worker.sampling.counter_rng import uniform
from octavo.worker.sampling.finite import finite_rows

SMALL = 1024
"""Largest top_k for which the likeliest ids are picked out; more are found by sorting all."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """Holds what was sampled from R rows."""

    token_ids: torch.Tensor
    """(R,) int64 in 0..V-1; without meaning where `finite` is not set."""
    finite: torch.Tensor
    """(R,) bool: the logits were finite and left at least one id to choose."""


def sample(logits: torch.Tensor, rows: Sequence[Row]) -> Choice:
    """One token per row, by the row's own settings.

    Greedy rows take the largest adjusted logit, the lower id among equals. Random rows: with p_i = exp((x_i - max x) / T),
    drop p_i < min_p; keep the top_k likeliest (lower ids first among equals); keep the shortest head of them whose mass
    reaches top_p; then invert the cumulative mass at the row's one uniform number. Mass is counted in integers (`fixed_point.py`),
    so the bits of a row depend on that row alone.

    Args:
        logits: (R, V) float32; not written.
        rows: (R)
    """
    finite = finite_rows(logits)
    adjusted = logits
    if any(row.is_adjusted for row in rows):
        # A row that is not finite is replaced, not multiplied: zero times NaN is NaN.
        adjusted = torch.where(finite[:, None], logits, 0.0)
        adjust_logits(adjusted, rows)
    token_ids = adjusted.argmax(-1)
    finite = finite & (adjusted.gather(1, token_ids[:, None])[:, 0] > -torch.inf)
    for belongs, choose in (
        (_is_plain, _draw_plain),
        (_has_small_top_k, _draw_likeliest),
        (_is_truncated, _draw_truncated),
    ):
        indices = [index for index, row in enumerate(rows) if belongs(row)]
        if len(indices) == len(rows):
            token_ids = choose(adjusted, rows)
        elif indices:
            where = upload(torch.tensor(indices), logits.device)
            token_ids[where] = choose(adjusted[where], [rows[index] for index in indices])
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


def _draw_plain(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """(R,) int64 from all ids that min_p leaves, in order of id."""
    temperature, min_p = _temperature(rows, logits.device), _min_p(rows, logits.device)
    return draw(logits, temperature[:, 0], min_p[:, 0], _numbers(rows, logits.device)[:, 0])


def _draw_likeliest(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """`_draw_truncated` of rows whose top_k is small: what it does not leave has no mass, and need not be sorted."""
    count = min(logits.shape[1], max(row.sampling.top_k for row in rows))
    ids = largest(logits, count)
    return _draw_sorted(logits.gather(1, ids), ids, rows)


def _draw_truncated(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """(R,) int64 from what min_p, top_k and top_p leave, likeliest first."""
    values, ids = logits.sort(dim=-1, descending=True, stable=True)
    return _draw_sorted(values, ids, rows)


def _draw_sorted(values: torch.Tensor, ids: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """(R,) int64 of ids (R, N), the likeliest first with their logits (R, N)."""
    count = values.shape[1]
    mass = masses(values, _temperature(rows, values.device), _min_p(rows, values.device))
    top_k = _column(rows, values.device, lambda row: row.sampling.top_k if row.sampling.top_k > 0 else count)
    mass.masked_fill_(torch.arange(count, device=values.device) >= top_k, 0)
    top_p = _column(rows, values.device, lambda row: row.sampling.top_p)
    before = mass.cumsum(-1) - mass
    mass.masked_fill_(before >= top_p * mass.sum(-1, keepdim=True), 0)
    return ids.gather(1, invert(mass, _numbers(rows, mass.device))[:, None])[:, 0]


def _temperature(rows: Sequence[Row], device: torch.device) -> torch.Tensor:
    return _column(rows, device, lambda row: row.sampling.temperature)


def _min_p(rows: Sequence[Row], device: torch.device) -> torch.Tensor:
    return _column(rows, device, lambda row: row.sampling.min_p)


def _numbers(rows: Sequence[Row], device: torch.device) -> torch.Tensor:
    """(R, 1) float64: the uniform number of each row's token."""
    seeds = [row.sampling.seed or 0 for row in rows]
    return upload(torch.from_numpy(uniform(seeds, [row.position for row in rows])), device)[:, None]


def _column(rows: Sequence[Row], device: torch.device, value: Callable[[Row], float]) -> torch.Tensor:
    """(R, 1) float64"""
    return upload(torch.tensor([[value(row)] for row in rows], dtype=torch.float64), device)

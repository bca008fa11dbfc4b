"""The choice of the next token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from octavo.ops.sort_keys import columns_of, sort_keys
from octavo.ops.upload import upload
from octavo.worker.sampling.adjust import Row, adjust_logits
from octavo.worker.sampling.counter_rng import uniform
from octavo.worker.sampling.finite import finite_rows
from octavo.worker.sampling.fixed_point import ONE, below_max, fixed_point_exp

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
    # A row that is not finite is replaced, not multiplied: zero times NaN is NaN. Adding 0 turns -0 into +0.
    adjusted = torch.where(finite[:, None], logits, 0.0).add_(0.0)
    adjust_logits(adjusted, rows)
    token_ids = adjusted.argmax(-1)
    finite = finite & (adjusted.gather(1, token_ids[:, None])[:, 0] > -torch.inf)
    for belongs, draw in (
        (_is_plain, _draw_plain),
        (_has_small_top_k, _draw_likeliest),
        (_is_truncated, _draw_truncated),
    ):
        indices = [index for index, row in enumerate(rows) if belongs(row)]
        if indices:
            where = upload(torch.tensor(indices), logits.device)
            token_ids[where] = draw(adjusted[where], [rows[index] for index in indices])
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
    return _invert(_masses(logits, rows), rows)


def _draw_likeliest(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """`_draw_truncated` of rows whose top_k is small: what it does not leave has no mass, and need not be sorted."""
    count = min(logits.shape[1], max(row.sampling.top_k for row in rows))
    ids = columns_of(sort_keys(logits).topk(count, dim=-1).values, logits.shape[1])
    return _draw_sorted(logits.gather(1, ids), ids, rows)


def _draw_truncated(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """(R,) int64 from what min_p, top_k and top_p leave, likeliest first."""
    values, ids = logits.sort(dim=-1, descending=True, stable=True)
    return _draw_sorted(values, ids, rows)


def _draw_sorted(values: torch.Tensor, ids: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """(R,) int64 of ids (R, N), the likeliest first with their logits (R, N)."""
    count = values.shape[1]
    mass = _masses(values, rows)
    top_k = _column(rows, values.device, lambda row: row.sampling.top_k if row.sampling.top_k > 0 else count)
    mass.masked_fill_(torch.arange(count, device=values.device) >= top_k, 0)
    top_p = _column(rows, values.device, lambda row: row.sampling.top_p)
    before = mass.cumsum(-1) - mass
    mass.masked_fill_(before >= top_p * mass.sum(-1, keepdim=True), 0)
    return ids.gather(1, _invert(mass, rows)[:, None])[:, 0]


def _masses(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """(R, V) int64: exp((x - max x) / T) in units of 1 / ONE, 0 below min_p."""
    # The maximum is taken off first, so that no temperature, however small, overflows.
    temperature = _column(rows, logits.device, lambda row: row.sampling.temperature)
    mass = fixed_point_exp(below_max(logits).div_(temperature))
    min_p = _column(rows, logits.device, lambda row: row.sampling.min_p)
    return mass.masked_fill_(mass < min_p * ONE, 0)


def _invert(mass: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """(R,) int64: the first index whose cumulative mass exceeds u * total; never one without mass."""
    cumulative = mass.cumsum(-1)
    total = cumulative[:, -1:]
    seeds = [row.sampling.seed or 0 for row in rows]
    numbers = upload(torch.from_numpy(uniform(seeds, [row.position for row in rows])), mass.device)
    target = torch.minimum((numbers[:, None] * total).long(), total - 1)
    return (cumulative <= target).sum(-1).clamp_(0, mass.shape[1] - 1)


def _column(rows: Sequence[Row], device: torch.device, value: Callable[[Row], float]) -> torch.Tensor:
    """(R, 1) float64"""
    return upload(torch.tensor([[value(row)] for row in rows], dtype=torch.float64), device)

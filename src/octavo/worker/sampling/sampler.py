"""The choice of the next token."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from octavo.ops.draw import DrawSettings, draw, draw_truncated
from octavo.ops.peak import peak
from octavo.ops.upload import upload
from octavo.worker.sampling.adjust import Adjustment, Row
from octavo.worker.sampling.counter_rng import uniform
from octavo.worker.sampling.counts import TokenCounts

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
    return Draft(logits, rows).sample([row.allowed for row in rows], counts)


class Draft:
    """R rows whose tokens are to be sampled: all that can be found before it is known which ids they may be.

    Args:
        logits: (R, V) float32; not written, nor by others before `sample`.
        rows: (R); what they are `allowed` does not count.
    """

    def __init__(self, logits: torch.Tensor, rows: Sequence[Row]) -> None:
        self.logits = logits
        self._adjustment = Adjustment(rows)
        self._draws: list[_Draw] = []
        plain, likeliest, truncated = [], [], []
        for index, row in enumerate(rows):
            sampling = row.sampling
            if sampling.greedy:
                continue
            if 0 < sampling.top_k <= SMALL:
                likeliest.append(index)
            elif sampling.top_k > 0 or sampling.top_p < 1:
                truncated.append(index)
            else:
                plain.append(index)
        self._has_greedy = len(plain) + len(likeliest) + len(truncated) < len(rows)
        self._peak = peak(logits, find=self._has_greedy)
        if plain:
            self._draws.append(_Draw.of(rows, plain, logits.device, None))
        if likeliest:
            most = max(rows[index].sampling.top_k for index in likeliest)
            self._draws.append(_Draw.of(rows, likeliest, logits.device, most))
        if truncated:
            self._draws.append(_Draw.of(rows, truncated, logits.device, 0))

    def sample(self, allowed: Sequence[bytes | None], counts: TokenCounts | None = None) -> Choice:
        """See the function `sample`; each row may only get one of the ids that it is `allowed`, as `Row.allowed`."""
        logits, top, finite = self.logits, self._peak, self._peak.finite
        if self._adjustment.changes(allowed):
            logits = self._adjustment.apply(logits, allowed, counts)
            top = peak(logits, find=self._has_greedy)
            finite = finite & (top.highest > -torch.inf)
        if top.column is None:
            token_ids = torch.zeros_like(top.highest, dtype=torch.int64)
        else:
            token_ids = top.column.clone() if self._draws else top.column
        for each in self._draws:
            if each.where is None:
                token_ids = each.tokens(logits, top.highest)
            else:
                token_ids[each.where] = each.tokens(logits[each.where], top.highest[each.where])
        return Choice(token_ids, finite)


@dataclasses.dataclass(frozen=True)
class _Draw:
    """Random rows whose tokens are drawn together."""

    where: torch.Tensor | None
    """(R',) int64, which rows of a draft; None: all."""
    settings: DrawSettings
    most: int | None
    """As `draw_truncated` takes it: what is not among so many of the likeliest has no mass, and need not be ordered. None: nothing
    is truncated but by min_p, and ids are drawn in their order."""

    @classmethod
    def of(cls, rows: Sequence[Row], indices: Sequence[int], device: torch.device, most: int | None) -> _Draw:
        """Those of `rows` that have these `indices`, with the uniform number of each row's token."""
        where = None if len(indices) == len(rows) else upload(torch.tensor(indices), device)
        chosen = [rows[index] for index in indices]
        numbers = uniform([row.sampling.seed or 0 for row in chosen], [row.position for row in chosen]).tolist()
        values = [
            (row.sampling.temperature, row.sampling.min_p, max(row.sampling.top_k, 0), row.sampling.top_p, number)
            for row, number in zip(chosen, numbers, strict=True)
        ]
        return cls(where, DrawSettings.of(values, device), most)

    def tokens(self, logits: torch.Tensor, highest: torch.Tensor) -> torch.Tensor:
        """(R',) int64 from logits (R', V) and the largest of each row."""
        if self.most is None:
            return draw(logits, self.settings, highest)
        return draw_truncated(logits, self.settings, highest, most=self.most)

"""Logit bias, min_tokens, penalties and grammars: what changes the logits before a token is chosen, in vLLM's order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from octavo.ops.adjust import AdjustSettings, adjust
from octavo.ops.upload import upload
from octavo.sampling import SamplingParams
from octavo.worker.sampling.counts import TokenCounts


@dataclasses.dataclass(frozen=True)
class Row:
    """How the token of one row of logits is chosen."""

    sampling: SamplingParams
    position: int
    """Of the token to be sampled, in its request."""
    masked_ids: Sequence[int] = ()
    """Ids that may not be sampled."""
    slot: int = -1
    """Whose counts the penalties take; -1: `sampling` has none."""
    allowed: bytes | None = None
    """Ids that may be sampled, as `StepMasks.masks`; None: all."""

    @property
    def is_adjusted(self) -> bool:
        """Whether `adjust_logits` changes its logits."""
        return bool(self.sampling.logit_bias or self.masked_ids) or self.is_adjusted_throughout

    @property
    def is_adjusted_throughout(self) -> bool:
        """Whether any id may be changed."""
        return self.slot >= 0 or self.allowed is not None

    @property
    def penalties(self) -> tuple[float, float, float, int]:
        """As `AdjustSettings` takes them."""
        sampling = self.sampling
        return sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty, self.slot


def adjust_logits(logits: torch.Tensor, rows: Sequence[Row], counts: TokenCounts | None = None) -> torch.Tensor:
    """Add biases, apply penalties, and mask; each (row, id) pair is touched on its own.

        bias:        x + bias[id]
        penalties, allowed ids: see `adjust`
        masked:      -inf

    vLLM masks before the penalties, which leave -inf as it is; masking last gives the same.

    Args:
        logits: (R, V) float32; read.
        rows: (R)
        counts: of all slots; needed if a row has one; read.

    Returns:
        (R, V) float32, new.
    """
    device = logits.device
    biased = [(index, token_id) for index, row in enumerate(rows) for token_id in row.sampling.logit_bias]
    masked = [(index, token_id) for index, row in enumerate(rows) for token_id in row.masked_ids]
    throughout = any(row.is_adjusted_throughout for row in rows)
    adjusted = torch.empty_like(logits) if throughout and not biased else logits.clone()
    if biased:
        biases = [bias for row in rows for bias in row.sampling.logit_bias.values()]
        where = upload(torch.tensor(biased), device).T
        adjusted[where[0], where[1]] += upload(torch.tensor(biases, dtype=torch.float32), device)
    if throughout:
        penalties, allowed = [row.penalties for row in rows], [row.allowed for row in rows]
        table = logits.new_empty((0, logits.shape[1]), dtype=torch.int32) if counts is None else counts.table
        settings = AdjustSettings.of(penalties, allowed, logits.shape[1], device)
        adjust(adjusted if biased else logits, table, settings, out=adjusted)
    if masked:
        where = upload(torch.tensor(masked), device).T
        adjusted[where[0], where[1]] = -torch.inf
    return adjusted

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
    return Adjustment(rows).apply(logits, [row.allowed for row in rows], counts)


class Adjustment:
    """What is done to the logits of R rows, but for the ids that they are allowed, which are told last."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._biased = [(index, token_id) for index, row in enumerate(rows) for token_id in row.sampling.logit_bias]
        self._biases = [bias for row in rows for bias in row.sampling.logit_bias.values()]
        self._masked = [(index, token_id) for index, row in enumerate(rows) for token_id in row.masked_ids]
        self._penalties = [row.penalties for row in rows]
        self._is_penalised = any(row.slot >= 0 for row in rows)

    def changes(self, allowed: Sequence[bytes | None]) -> bool:
        """Whether `apply` changes any logits."""
        return bool(self._biased or self._masked) or self._changes_any_id(allowed)

    def apply(
        self, logits: torch.Tensor, allowed: Sequence[bytes | None], counts: TokenCounts | None = None
    ) -> torch.Tensor:
        """See `adjust_logits`; each row keeps only the ids that it is `allowed`, as `Row.allowed`."""
        device = logits.device
        throughout = self._changes_any_id(allowed)
        adjusted = torch.empty_like(logits) if throughout and not self._biased else logits.clone()
        if self._biased:
            where = upload(torch.tensor(self._biased), device).T
            adjusted[where[0], where[1]] += upload(torch.tensor(self._biases, dtype=torch.float32), device)
        if throughout:
            table = logits.new_empty((0, logits.shape[1]), dtype=torch.int32) if counts is None else counts.table
            settings = AdjustSettings.of(self._penalties, allowed, logits.shape[1], device)
            adjust(adjusted if self._biased else logits, table, settings, out=adjusted)
        if self._masked:
            where = upload(torch.tensor(self._masked), device).T
            adjusted[where[0], where[1]] = -torch.inf
        return adjusted

    def _changes_any_id(self, allowed: Sequence[bytes | None]) -> bool:
        return self._is_penalised or any(bits is not None for bits in allowed)

"""Logit bias, min_tokens, penalties and grammars: what changes the logits before a token is chosen, in vLLM's order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

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
    counts: TokenCounts | None = None
    """Needed if `sampling` has a penalty."""
    allowed: bytes | None = None
    """Ids that may be sampled, as `AllowedIds.bits`; None: all."""

    @property
    def is_adjusted(self) -> bool:
        """Whether `adjust_logits` changes its logits."""
        return bool(self.sampling.logit_bias or self.masked_ids) or not (self.counts is None and self.allowed is None)


def adjust_logits(logits: torch.Tensor, rows: Sequence[Row]) -> None:
    """Add biases, apply penalties, and mask; each (row, id) pair is touched on its own.

        bias:        x + bias[id]
        repetition:  x / r if x > 0 else x * r,  for ids in prompt or answer
        frequency:   x - f * (times in the answer)
        presence:    x - p, for ids in the answer
        masked:      -inf, also for ids that are not allowed

    vLLM masks before the penalties, which leave -inf as it is; masking last gives the same.

    Args:
        logits: (R, V) float32, finite; written.
        rows: (R)
    """
    _add_biases(logits, rows)
    _apply_penalties(logits, rows)
    pairs = [(index, token_id) for index, row in enumerate(rows) for token_id in row.masked_ids]
    if pairs:
        where = upload(torch.tensor(pairs), logits.device).T
        logits[where[0], where[1]] = -torch.inf
    _mask_the_rest(logits, rows)


def _mask_the_rest(logits: torch.Tensor, rows: Sequence[Row]) -> None:
    """-inf for all ids but those that a row allows."""
    indices = [index for index, row in enumerate(rows) if row.allowed is not None]
    if not indices:
        return
    device = logits.device
    packed = np.frombuffer(b"".join(row.allowed for row in rows if row.allowed is not None), dtype=np.uint8)
    bits = upload(torch.from_numpy(packed.reshape(len(indices), -1).copy()), device)
    ids = torch.arange(logits.shape[1], device=device)
    forbidden = bits[:, ids // 8].bitwise_right_shift_((ids % 8).byte()).bitwise_and_(1) == 0
    where = upload(torch.tensor(indices), device)
    logits.index_copy_(0, where, logits.index_select(0, where).masked_fill_(forbidden, -torch.inf))


def _add_biases(logits: torch.Tensor, rows: Sequence[Row]) -> None:
    pairs = [(index, token_id) for index, row in enumerate(rows) for token_id in row.sampling.logit_bias]
    if pairs:
        biases = [bias for row in rows for bias in row.sampling.logit_bias.values()]
        where = upload(torch.tensor(pairs), logits.device).T
        logits[where[0], where[1]] += upload(torch.tensor(biases, dtype=torch.float32), logits.device)


def _apply_penalties(logits: torch.Tensor, rows: Sequence[Row]) -> None:
    penalised = [(index, row.sampling, row.counts) for index, row in enumerate(rows) if row.counts is not None]
    if not penalised:
        return
    device = logits.device
    sizes = [len(counts.ids) for _, _, counts in penalised]
    settings = [[s.repetition_penalty, s.frequency_penalty, s.presence_penalty] for _, s, _ in penalised]
    where = np.stack(
        [
            np.repeat([index for index, _, _ in penalised], sizes),
            np.concatenate([counts.ids for _, _, counts in penalised]),
            np.concatenate([counts.made for _, _, counts in penalised]),
        ]
    )
    row, token_id, made = upload(torch.from_numpy(where), device)
    factors = upload(torch.from_numpy(np.repeat(np.array(settings, dtype=np.float64), sizes, axis=0)), device)
    repetition, frequency, presence = factors.T
    # In float64, where no factor that a request may set makes NaN; back in float32 the ends are clamped, not infinite.
    value = logits[row, token_id].double()
    value = torch.where(value > 0, value / repetition, value * repetition)
    value = value - frequency * made - presence * (made > 0)
    limit = torch.finfo(torch.float32).max
    logits[row, token_id] = value.clamp(-limit, limit).float()

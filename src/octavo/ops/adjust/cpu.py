"""Penalties and masks in PyTorch's operations: an id that does not occur costs a comparison."""

from __future__ import annotations

import numpy as np
import torch

from octavo.ops.adjust.settings import IN_PROMPT, AdjustSettings
from octavo.ops.contract import Dims

LARGEST = torch.finfo(torch.float32).max


def cpu_adjust(
    logits: torch.Tensor, counts: torch.Tensor, settings: AdjustSettings, *, out: torch.Tensor
) -> torch.Tensor:
    """See `adjust`.

    Raises:
        KernelContractError: a tensor has another dtype or size.
    """
    settings.check(Dims(), logits, counts, out)
    out.copy_(logits)
    _penalise(out, counts, settings)
    _mask(out, settings)
    return out


def _penalise(logits: torch.Tensor, counts: torch.Tensor, settings: AdjustSettings) -> None:
    """All (row, id) pairs that occur, in as many operations for many rows as for one: logits (R, V) float32, written."""
    rows = ((settings.slots >= 0) & (settings.slots < len(counts))).nonzero()[:, 0]
    if not len(rows):
        return
    held = counts.index_select(0, settings.slots[rows])
    places, ids = held.nonzero(as_tuple=True)
    made, row = held[places, ids] & (IN_PROMPT - 1), rows[places]
    repetition, frequency, presence = settings.penalties[:, row]
    # In float64, where no factor that a request may set makes NaN; back in float32 the ends are clamped, not infinite.
    value = logits[row, ids].double()
    value = torch.where(value > 0, value / repetition, value * repetition)
    value = value - frequency * made - presence * (made > 0)
    logits[row, ids] = value.clamp(-LARGEST, LARGEST).float()


def _mask(logits: torch.Tensor, settings: AdjustSettings) -> None:
    """-inf for all ids but those that a row allows: logits (R, V) float32, written."""
    places = settings.allowed_rows
    rows = ((places >= 0) & (places < len(settings.allowed))).nonzero()[:, 0]
    if not len(rows):
        return
    bits = settings.allowed[places[rows]].numpy()
    allowed = torch.from_numpy(np.unpackbits(bits, axis=1, count=logits.shape[1], bitorder="little")).bool()
    logits[rows] = torch.where(allowed, logits[rows], -torch.inf)

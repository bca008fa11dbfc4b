"""Penalties and masks in PyTorch's operations: an id that does not occur costs a comparison."""

from __future__ import annotations

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
    dims = Dims()
    settings.check(dims, logits, counts, out)
    out.copy_(logits)
    has_counts = (settings.slots >= 0) & (settings.slots < dims["S"])
    for row in has_counts.nonzero()[:, 0].tolist():
        _penalise(out[row], counts[int(settings.slots[row])], settings.penalties[:, row])
    masked = (settings.allowed_rows >= 0) & (settings.allowed_rows < dims["M"])
    ids = torch.arange(dims["V"])
    for row in masked.nonzero()[:, 0].tolist():
        bits = settings.allowed[int(settings.allowed_rows[row])]
        out[row].masked_fill_(bits[ids // 8].bitwise_right_shift((ids % 8).byte()) & 1 == 0, -torch.inf)
    return out


def _penalise(logits: torch.Tensor, counts: torch.Tensor, penalties: torch.Tensor) -> None:
    """One row: (V,) float32, written; (V,) int32; (3,) float64."""
    repetition, frequency, presence = penalties
    ids = counts.nonzero()[:, 0]
    made = counts[ids] & (IN_PROMPT - 1)
    # In float64, where no factor that a request may set makes NaN; back in float32 the ends are clamped, not infinite.
    value = logits[ids].double()
    value = torch.where(value > 0, value / repetition, value * repetition)
    value = value - frequency * made - presence * (made > 0)
    logits[ids] = value.clamp(-LARGEST, LARGEST).float()

"""The draw in PyTorch's operations."""

from __future__ import annotations

import torch

from octavo.ops.contract import Dims
from octavo.ops.draw.fixed_point import ONE, below_max, fixed_point_exp
from octavo.ops.draw.settings import DrawSettings
from octavo.ops.largest import largest


def cpu_draw(logits: torch.Tensor, settings: DrawSettings) -> torch.Tensor:
    """See `draw`.

    Raises:
        KernelContractError: a tensor has another dtype or size.
    """
    settings.check(Dims(), logits)
    temperature, min_p, _, _, numbers = settings.columns()
    return _invert(_masses(logits, temperature, min_p), numbers)


def cpu_draw_truncated(logits: torch.Tensor, settings: DrawSettings, *, most: int) -> torch.Tensor:
    """See `draw_truncated`.

    Raises:
        KernelContractError: a tensor has another dtype or size.
    """
    settings.check(Dims(), logits)
    if 0 < most < logits.shape[1]:
        ids = largest(logits, most)
        values = logits.gather(1, ids)
    else:
        values, ids = logits.sort(dim=-1, descending=True, stable=True)
    temperature, min_p, top_k, top_p, numbers = settings.columns()
    mass = _masses(values, temperature, min_p)
    mass.masked_fill_((top_k > 0) & (torch.arange(values.shape[1], device=values.device) >= top_k), 0)
    before = mass.cumsum(-1) - mass
    mass.masked_fill_(before >= top_p * mass.sum(-1, keepdim=True), 0)
    return ids.gather(1, _invert(mass, numbers)[:, None])[:, 0]


def _masses(logits: torch.Tensor, temperature: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
    """exp((x - max x) / T) in units of 1 / ONE, 0 below min_p: (R, V) float32, (R, 1) float64 twice -> (R, V) int64, new."""
    # The maximum is taken off first, so that no temperature, however small, overflows.
    mass = fixed_point_exp(below_max(logits).div_(temperature))
    return mass.masked_fill_(mass < min_p * ONE, 0)


def _invert(mass: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The first column whose cumulative mass exceeds number x total; never one without mass, if there is any.

    mass (R, N) int64, numbers (R, 1) float64 -> (R,) int64 in 0..N-1
    """
    cumulative = mass.cumsum(-1)
    total = cumulative[:, -1:]
    target = torch.minimum((numbers * total).long(), total - 1)
    return (cumulative <= target).sum(-1).clamp_(0, mass.shape[1] - 1)

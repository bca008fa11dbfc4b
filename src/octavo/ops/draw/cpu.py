"""The draw in PyTorch's operations."""

from __future__ import annotations

import torch

from octavo.ops.contract import Dims
from octavo.ops.draw.fixed_point import ONE, below_max, fixed_point_exp


def cpu_draw(
    logits: torch.Tensor, temperature: torch.Tensor, min_p: torch.Tensor, numbers: torch.Tensor
) -> torch.Tensor:
    """See `draw`.

    Raises:
        KernelContractError: a tensor has another dtype or size.
    """
    check_draw(Dims(), logits, temperature, min_p, numbers)
    return invert(masses(logits, temperature[:, None], min_p[:, None]), numbers[:, None])


def check_draw(
    dims: Dims, logits: torch.Tensor, temperature: torch.Tensor, min_p: torch.Tensor, numbers: torch.Tensor
) -> None:
    """Bind R and V to the sizes of the arguments of `draw`: logits (R, V), the others (R,).

    Raises:
        KernelContractError: a tensor has another dtype, size or device.
    """
    dims.check("logits", logits, ("R", "V"), dtype=torch.float32)
    for name, column in (("temperature", temperature), ("min_p", min_p), ("numbers", numbers)):
        dims.check(name, column, ("R",), dtype=torch.float64)


def masses(logits: torch.Tensor, temperature: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
    """exp((x - max x) / T) in units of 1 / ONE, 0 below min_p: (R, V) float32, (R, 1) float64 twice -> (R, V) int64, new."""
    # The maximum is taken off first, so that no temperature, however small, overflows.
    mass = fixed_point_exp(below_max(logits).div_(temperature))
    return mass.masked_fill_(mass < min_p * ONE, 0)


def invert(mass: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The first column whose cumulative mass exceeds number x total; never one without mass, if there is any.

    mass (R, N) int64, numbers (R, 1) float64 -> (R,) int64 in 0..N-1
    """
    cumulative = mass.cumsum(-1)
    total = cumulative[:, -1:]
    target = torch.minimum((numbers * total).long(), total - 1)
    return (cumulative <= target).sum(-1).clamp_(0, mass.shape[1] - 1)

"""Rotary embedding as a rotation of complex numbers, in float64."""

from __future__ import annotations

import torch


def rotary_reference(x: torch.Tensor, positions: torch.Tensor, theta: float, width: int | None = None) -> torch.Tensor:
    """(a + ib) e^(i position theta^(-2j/R)), of the first R = `width` numbers of a head, all without it.

    x (T, heads, D), positions (T,) -> (T, heads, D) float64.
    """
    half = (width or x.shape[-1]) // 2
    frequencies = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    turn = torch.polar(torch.ones(1, dtype=torch.float64), positions.double()[:, None] * frequencies)
    turned = torch.complex(x[..., :half].double(), x[..., half : 2 * half].double()) * turn[:, None]
    return torch.cat((turned.real, turned.imag, x[..., 2 * half :].double()), dim=-1)

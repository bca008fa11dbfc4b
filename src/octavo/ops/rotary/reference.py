"""Rotary embedding as a rotation of complex numbers, in float64."""

from __future__ import annotations

import torch


def rotary_reference(x: torch.Tensor, positions: torch.Tensor, theta: float) -> torch.Tensor:
    """(a + ib) e^(i position theta^(-2j/D)); x (T, heads, D), positions (T,) -> (T, heads, D) float64."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    turn = torch.polar(torch.ones(1, dtype=torch.float64), positions.double()[:, None] * frequencies)
    turned = torch.complex(x[..., :half].double(), x[..., half:].double()) * turn[:, None]
    return torch.cat((turned.real, turned.imag), dim=-1)

"""Rotary position embedding."""

from __future__ import annotations

import dataclasses

import torch

from octavo.ops.contract import Dims

__all__ = ["RotaryTable", "rotary"]


@dataclasses.dataclass(frozen=True)
class RotaryTable:
    """cos and sin of position * theta^(-2i/D): each (P, D/2) float32."""

    cos: torch.Tensor
    sin: torch.Tensor

    @classmethod
    def make(cls, positions: int, head_dim: int, theta: float, device: torch.device) -> RotaryTable:
        """The table of positions 0 .. positions - 1, made on the CPU so that every device has the same numbers.

        Frequencies and angles in float32, as Hugging Face's default rotary embedding computes them.
        """
        frequencies = 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))
        angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
        return cls(angles.cos().to(device), angles.sin().to(device))

    def at(self, positions: torch.Tensor) -> RotaryTable:
        """The rows of `positions` (T,) int64."""
        return RotaryTable(self.cos.index_select(0, positions), self.sin.index_select(0, positions))

    def chunk(self, rows: slice) -> RotaryTable:
        """Views of some rows."""
        return RotaryTable(self.cos[rows], self.sin[rows])


def rotary(x: torch.Tensor, rows: RotaryTable) -> torch.Tensor:
    """(a, b) -> (a cos - b sin, b cos + a sin), a and b the halves of a head; in float32, rounded once.

    Args:
        x: (T, heads, D) bf16; read.
        rows: (T, D/2) float32: the table at the position of each token.

    Returns:
        (T, heads, D) bf16, new.

    Raises:
        KernelContractError: a tensor has another dtype or size.
    """
    dims = Dims()
    dims.check("x", x, ("T", "heads", 2 * rows.cos.shape[1]), dtype=torch.bfloat16)
    dims.check("rows.cos", rows.cos, ("T", "D/2"), dtype=torch.float32)
    wide = x.float()
    turned = torch.empty_like(wide)
    (a, b), (low, high) = wide.chunk(2, dim=-1), turned.chunk(2, dim=-1)
    cos, sin = rows.cos[:, None], rows.sin[:, None]
    torch.mul(a, cos, out=low).sub_(b * sin)
    torch.mul(b, cos, out=high).add_(a * sin)
    return turned.to(torch.bfloat16)

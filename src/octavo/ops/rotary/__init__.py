"""Rotary position embedding."""

from __future__ import annotations

import dataclasses

import torch

from octavo.config.rope import Rope
from octavo.ops.contract import Dims, check_range
from octavo.ops.rotary.frequencies import frequencies

__all__ = ["RotaryTable", "rotary"]


@dataclasses.dataclass(frozen=True)
class RotaryTable:
    """cos and sin of each position's angles: each (P, R/2) float32, of the R <= D numbers of a head that are turned."""

    cos: torch.Tensor
    sin: torch.Tensor

    @classmethod
    def make(cls, positions: int, rope: Rope, device: torch.device) -> RotaryTable:
        """The table of positions 0 .. positions - 1, made on the CPU so that every device has the same numbers.

        Frequencies and angles in float32, as Hugging Face's rotary embeddings compute them.
        """
        angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies(rope))
        cos, sin = angles.cos(), angles.sin()
        if rope.yarn is not None:
            cos, sin = cos.mul_(rope.yarn.attention_factor), sin.mul_(rope.yarn.attention_factor)
        return cls(cos.to(device), sin.to(device))

    def at(self, positions: torch.Tensor) -> RotaryTable:
        """The rows of `positions` (T,) int64."""
        return RotaryTable(self.cos.index_select(0, positions), self.sin.index_select(0, positions))

    def chunk(self, rows: slice) -> RotaryTable:
        """Views of some rows."""
        return RotaryTable(self.cos[rows], self.sin[rows])


def rotary(x: torch.Tensor, rows: RotaryTable) -> torch.Tensor:
    """(a, b) -> (a cos - b sin, b cos + a sin), a and b the halves of a head's first R numbers; in float32, rounded once.

    Args:
        x: (T, heads, D) bf16, R <= D; read.
        rows: (T, R/2) float32: the table at the position of each token.

    Returns:
        (T, heads, D) bf16, new; from R on as it was.

    Raises:
        KernelContractError: a tensor has another dtype or size.
    """
    dims = Dims()
    dims.check("x", x, ("T", "heads", "D"), dtype=torch.bfloat16)
    dims.check("rows.cos", rows.cos, ("T", "R/2"), dtype=torch.float32)
    width = 2 * check_range("rows.cos.shape[1]", dims["R/2"], 1, dims["D"] // 2, "pass the table of this head's width")
    wide = x.float()
    turned = torch.empty_like(wide)
    turned[..., width:] = wide[..., width:]
    (a, b), (low, high) = wide[..., :width].chunk(2, dim=-1), turned[..., :width].chunk(2, dim=-1)
    cos, sin = rows.cos[:, None], rows.sin[:, None]
    torch.mul(a, cos, out=low).sub_(b * sin)
    torch.mul(b, cos, out=high).add_(a * sin)
    return turned.to(torch.bfloat16)

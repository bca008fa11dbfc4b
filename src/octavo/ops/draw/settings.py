"""How the token of each row is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from octavo.ops.contract import Dims, check_range
from octavo.ops.draw.fixed_point import MAX_VOCAB
from octavo.ops.upload import upload


@dataclasses.dataclass(frozen=True)
class DrawSettings:
    """Settings of R rows in one tensor, so that one copy takes them to a device."""

    values: torch.Tensor
    """(5, R) float64: temperatures above 0, min_p in [0, 1], top_k (0: all ids), top_p in (0, 1], numbers in [0, 1)."""
    has_top_k: bool = True
    """Whether any top_k may be above 0."""

    @classmethod
    def of(cls, rows: Sequence[tuple[float, float, float, float, float]], device: torch.device) -> DrawSettings:
        """The settings of `rows`, each in the order of `values`, on `device`."""
        values = torch.tensor(rows, dtype=torch.float64).view(-1, 5).T.contiguous()
        return cls(upload(values, device), has_top_k=any(top_k > 0 for _, _, top_k, _, _ in rows))

    def check(self, dims: Dims, logits: torch.Tensor) -> None:
        """Bind R and V to the sizes of `logits` (R, V), and hold `values` against them.

        Raises:
            KernelContractError: a tensor has another dtype, size or device.
        """
        dims.check("logits", logits, ("R", "V"), dtype=torch.float32)
        check_range("logits.shape[1]", dims["V"], 1, MAX_VOCAB, "the masses of more ids do not fit an int64")
        dims.check("settings.values", self.values, (5, "R"), dtype=torch.float64)

    def columns(self) -> tuple[torch.Tensor, ...]:
        """Each of `values` as (R, 1) float64."""
        return tuple(self.values[:, :, None])


def largest_of(dims: Dims, logits: torch.Tensor, highest: torch.Tensor | None) -> torch.Tensor:
    """`highest` (R,) float32 if given, else the largest of each row of logits (R, V).

    Raises:
        KernelContractError: `highest` has another dtype, size or device.
    """
    if highest is None:
        return logits.amax(-1)
    dims.check("highest", highest, ("R",), dtype=torch.float32)
    return highest

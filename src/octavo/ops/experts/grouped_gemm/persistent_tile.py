"""Tiles of large batches: few programs that stay, whose copies, products and epilogues run beside each other."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from octavo.errors import KernelContractError
from octavo.ops.formats import Fp8Block, Fp8Channel, Fp8Static
from octavo.ops.persistent import runs_persistent_kernels

STEP = 128
"""Columns of K that are loaded at a time, whole."""


@dataclasses.dataclass(frozen=True)
class PersistentTile:
    """128 sorted rows by two blocks of 128 rows of weights per item of a program that goes through many; one program on each multiprocessor.

    For FP8 weights with bulk copies, and rows and columns of weights without remainders. Of the gated product, which is made with scales per
    block alone, a tile has 128 output columns, else 256.
    """

    rows: ClassVar[int] = 128

    @staticmethod
    def formats(*, gated: bool) -> tuple[str, ...]:
        """Names of the types of weights whose products it makes."""
        return (Fp8Block.__name__,) if gated else (Fp8Channel.__name__, Fp8Static.__name__, Fp8Block.__name__)

    @staticmethod
    def columns(*, gated: bool) -> int:
        """Output columns of a tile."""
        return 128 if gated else 256

    def reasons_against(self, kind: str, columns: int, width: int, *, gated: bool) -> list[str]:
        """Why it cannot make `columns` outputs of K = `width`, of weights whose type has the name `kind`; empty if it can."""
        formats, step = self.formats(gated=gated), self.columns(gated=gated)
        product = "the gated product" if gated else "the product"
        checks = [
            (kind in formats, f"{product} of {kind}: use a Tile, or weights of {', '.join(formats)}"),
            (width > 0 and width % STEP == 0, f"K {width}: use a Tile where it is no multiple of {STEP}"),
            (
                columns > 0 and columns % step == 0,
                f"{columns} columns: use a Tile where they are no multiple of {step}",
            ),
        ]
        return [reason for legal, reason in checks if not legal]

    def check(self, kind: str, columns: int, width: int, device: torch.device, *, gated: bool) -> None:
        """Raises: KernelContractError with every reason against this tile, there and on this device."""
        reasons = self.reasons_against(kind, columns, width, gated=gated)
        if not runs_persistent_kernels(device):
            reasons.append(f"{device}: use a Tile where kernels are not compiled for compute capability 9.0")
        if reasons:
            raise KernelContractError("tile", "a tile that can run", "; ".join(reasons))

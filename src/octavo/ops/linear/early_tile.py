"""Tiles of few rows, whose weights are asked for before the kernel before has ended."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch

from octavo.ops.experts.grouped_gemm.tile import SHARED_BYTES
from octavo.ops.formats import LinearWeight
from octavo.ops.persistent import runs_persistent_kernels

STEP_BYTES = 128
"""Of each row and column in a step of K: as much as is read from shared memory without bank conflicts."""


@dataclasses.dataclass(frozen=True)
class EarlyTile:
    """`rows` rows by 64 columns per program, with shared memory for `ring` groups of up to `together` steps of K.

    For operands that bulk copies can read, whose K has whole steps. A step is as wide as a block of weights where scales are per block.
    """

    rows: int
    ring: int
    together: int = 4
    columns: ClassVar[int] = 64

    @staticmethod
    def steps(w: LinearWeight) -> int:
        """Of K, whole ones."""
        return w.data.shape[1] * w.data.element_size() // STEP_BYTES

    def group(self, w: LinearWeight) -> int:
        """Steps that come together."""
        return math.gcd(self.together, self.steps(w))

    def pending(self, w: LinearWeight) -> int:
        """Products with scales per block that are issued one behind the other: as many as registers hold."""
        return min(self.group(w), max(1, 128 // self.rows), 4)

    def most_steps(self, w: LinearWeight) -> int:
        """A power of two: so many steps have scales in shared memory."""
        return 1 << (self.steps(w) - 1).bit_length() if w.blockwise else 1

    def group_bytes(self, w: LinearWeight) -> int:
        """Of shared memory, for a group of steps and its barrier."""
        return self.group(w) * (self.rows + self.columns) * STEP_BYTES + 8

    def scale_bytes(self, w: LinearWeight) -> int:
        """Of shared memory, for the scales of all steps."""
        return 4 * self.most_steps(w) * self.rows if w.blockwise else 0

    def reasons_against(self, w: LinearWeight, device: torch.device) -> list[str]:
        """Why it cannot make the product of `w` there; empty if it can."""
        past = w.data.shape[1] * w.data.element_size() % STEP_BYTES
        if past or not self.steps(w):
            return [f"{past} bytes of K past whole steps of {STEP_BYTES}: use a DenseTile"]
        if self.together not in (1, 2, 4):
            return [f"together {self.together}: use 1, 2 or 4"]
        shared = self.ring * self.group_bytes(w) + self.scale_bytes(w)
        compiled = f"{device}: use a DenseTile where kernels are not compiled for compute capability 9.0"
        checks = [
            (self.rows in (16, 32, 64, 128), f"rows {self.rows}: use 16, 32, 64 or 128"),
            (1 <= self.ring <= 32, f"ring {self.ring}: use 1 to 32"),
            (shared <= SHARED_BYTES, f"{shared} bytes of shared memory, {SHARED_BYTES} at most: a shorter ring"),
            (runs_persistent_kernels(device), compiled),
        ]
        return [reason for legal, reason in checks if not legal]

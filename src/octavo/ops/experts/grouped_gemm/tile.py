"""The part of a launch that may change with the batch, because the bits do not depend on it."""

from __future__ import annotations

import dataclasses
import functools

from octavo.errors import KernelContractError

SHARED_BYTES = 227 * 1024
"""Shared memory one block can use on Hopper (CUDA C++ Programming Guide, compute capability 9.0)."""


@dataclasses.dataclass(frozen=True)
class Tile:
    """`rows` sorted rows by `cols` output columns per program, with `warps` warps and `stages` K steps in flight.

    With `tma` the weights come through Hopper's bulk tensor copies, else through asynchronous copies by each thread.
    The last tile of an expert runs at the least of rows, rows / 2, ... that holds it, `max_halvings` times halved at most.
    A K step is `step_factor` times the columns of its format's `STEP`: fewer, longer steps where the weights are what is waited for.
    `early` times the columns of `STEP` are loaded in one piece while the kernel before still runs, where a product stands between this one and what
    wrote the list of tiles, and no program comes in a second wave: what a product of few rows waits for is its own loads, one step after the other.
    """

    rows: int
    cols: int
    warps: int
    stages: int
    tma: bool = False
    max_halvings: int = 0
    step_factor: int = 1
    early: int = 0

    @functools.cache  # noqa: B019 (tiles are few and live as long as the process; every launch asks)
    def reasons_against(self, *, gated: bool, step_bytes: int) -> list[str]:
        """Why this tile cannot run where a `STEP` has `step_bytes` bytes; empty if it can."""
        height = self.cols * (2 if gated else 1)
        shared = (self.early + self.stages * self.step_factor) * (self.rows + height) * step_bytes
        accumulators = self.rows * height // (32 * max(self.warps, 1))
        checks = [
            (self.rows in (16, 32, 64, 128, 256), f"rows {self.rows}: use 16, 32, 64, 128 or 256"),
            (
                self.cols in (64, 128, 256),
                f"cols {self.cols}: wgmma needs the weight side in multiples of 64; use 64, 128 or 256",
            ),
            (self.warps in (4, 8), f"warps {self.warps}: wgmma is issued by groups of 4; use 4 or 8"),
            (
                0 <= self.max_halvings <= 2 and self.rows >> self.max_halvings >= 16,
                f"max_halvings {self.max_halvings} of {self.rows} rows: use 0 to 2, down to 16 rows",
            ),
            (self.step_factor in (1, 2, 4), f"step_factor {self.step_factor}: use 1, 2 or 4"),
            (self.early in (0, 1, 2, 4, 8, 16, 32), f"early {self.early}: use 0, or a power of two up to 32"),
            (self.early % self.step_factor == 0, f"early {self.early}: use whole steps, of {self.step_factor} each"),
            (
                not self.early or (self.tma and not self.max_halvings and not gated),
                f"early {self.early}: use tma and no max_halvings, for weights that the kernel before does not choose",
            ),
            (2 <= self.stages <= 8, f"stages {self.stages}: use 2 to 8"),
            (
                shared <= SHARED_BYTES,
                f"{shared} bytes of shared memory, {SHARED_BYTES} at most: fewer stages, or less early",
            ),
            (accumulators <= 256, f"{accumulators} accumulators per thread, 256 at most: more warps or a smaller tile"),
        ]
        return [reason for legal, reason in checks if not legal]

    def check(self, *, gated: bool, step_bytes: int) -> None:
        """Raises: KernelContractError with every reason against this tile."""
        reasons = self.reasons_against(gated=gated, step_bytes=step_bytes)
        if reasons:
            raise KernelContractError("tile", "a tile that can run", "; ".join(reasons))

"""A tile of one matrix product."""

from __future__ import annotations

import dataclasses
import functools

from octavo.ops.experts.grouped_gemm.tile import SHARED_BYTES, Tile


@dataclasses.dataclass(frozen=True)
class DenseTile(Tile):
    """A tile of a product with one weight, which is never halved: there is one last tile, not one for each expert.

    `early` times the columns of its format's `STEP` are loaded in one piece while the kernel before still runs, where all rows are in one
    tile: what a product of few rows waits for is its own loads, one step after the other.
    """

    early: int = 0

    @functools.cache  # noqa: B019 (as in Tile)
    def reasons_against(self, *, gated: bool, step_bytes: int) -> list[str]:
        """See `Tile`."""
        shared = (self.rows + self.cols) * (self.early + self.stages * self.step_factor) * step_bytes
        checks = [
            (self.max_halvings == 0, f"max_halvings {self.max_halvings}: a dense tile is not halved"),
            (self.early in (0, 1, 2, 4, 8, 16, 32), f"early {self.early}: use 0, or a power of two up to 32"),
            (self.early % self.step_factor == 0, f"early {self.early}: use whole steps, of {self.step_factor} each"),
            (not self.early or self.tma, f"early {self.early}: loaded by bulk copies, with tma"),
            (
                not self.early or shared <= SHARED_BYTES,
                f"{shared} bytes of shared memory, {SHARED_BYTES} at most: less early, or fewer stages",
            ),
        ]
        return [reason for legal, reason in checks if not legal] + super().reasons_against(
            gated=gated, step_bytes=step_bytes
        )

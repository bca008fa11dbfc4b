"""A tile of one matrix product."""

from __future__ import annotations

import dataclasses
import functools

from octavo.ops.experts.grouped_gemm.tile import Tile


@dataclasses.dataclass(frozen=True)
class DenseTile(Tile):
    """A tile of a product with one weight, which is never halved: there is one last tile, not one for each expert.

    A K step is `step_factor` times the columns of its format's `STEP`: fewer, longer steps where the weights are what is waited for.
    """

    step_factor: int = 1

    @functools.cache  # noqa: B019 (as in Tile)
    def reasons_against(self, *, gated: bool, step_bytes: int) -> list[str]:
        """See `Tile`."""
        checks = [
            (self.step_factor in (1, 2, 4), f"step_factor {self.step_factor}: use 1, 2 or 4"),
            (self.max_halvings == 0, f"max_halvings {self.max_halvings}: a dense tile is not halved"),
        ]
        own = [reason for legal, reason in checks if not legal]
        return own + super().reasons_against(gated=gated, step_bytes=step_bytes)

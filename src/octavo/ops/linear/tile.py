"""A tile of one matrix product."""

from __future__ import annotations

import dataclasses
import functools

from octavo.ops.experts.grouped_gemm.tile import Tile


@dataclasses.dataclass(frozen=True)
class DenseTile(Tile):
    """A tile of a product with one weight. It is never halved, as there is one last tile, not one for each expert, and loads nothing early: see `EarlyTile`."""

    @functools.cache  # noqa: B019 (as in Tile)
    def reasons_against(self, *, gated: bool, step_bytes: int) -> list[str]:
        """See `Tile`."""
        checks = [
            (self.max_halvings == 0, f"max_halvings {self.max_halvings}: a dense tile is not halved"),
            (self.early == 0, f"early {self.early}: use an EarlyTile"),
        ]
        return [reason for legal, reason in checks if not legal] + super().reasons_against(
            gated=gated, step_bytes=step_bytes
        )

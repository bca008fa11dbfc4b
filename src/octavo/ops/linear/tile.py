"""A tile of one matrix product."""

from __future__ import annotations

import dataclasses
import functools

from octavo.ops.experts.grouped_gemm.tile import Tile


@dataclasses.dataclass(frozen=True)
class DenseTile(Tile):
    """A tile of a product with one weight, which is never halved: there is one last tile, not one for each expert."""

    @functools.cache  # noqa: B019 (as in Tile)
    def reasons_against(self, *, gated: bool, step_bytes: int) -> list[str]:
        """See `Tile`."""
        halved = f"max_halvings {self.max_halvings}: a dense tile is not halved"
        own = [] if self.max_halvings == 0 else [halved]
        return own + super().reasons_against(gated=gated, step_bytes=step_bytes)

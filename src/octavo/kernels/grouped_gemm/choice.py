"""Which tiles a layer uses: from the table where its shape was tuned, safe ones elsewhere."""

from __future__ import annotations

import dataclasses

from octavo.kernels.grouped_gemm.table import TABLE
from octavo.kernels.grouped_gemm.tile import Tile


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The tiles of both grouped GEMMs of a layer; they share the plan, so their `rows` are equal."""

    gate_up: Tile
    down: Tile


_SAFE = {
    16: Tiles(Tile(16, 64, 4, 4), Tile(16, 64, 4, 4)),
    32: Tiles(Tile(32, 64, 4, 4), Tile(32, 64, 4, 4)),
    64: Tiles(Tile(64, 64, 4, 4), Tile(64, 128, 4, 4)),
    128: Tiles(Tile(128, 64, 8, 3), Tile(128, 128, 8, 3)),
}


def choose_tiles(shape: tuple[str, int, int, int], slots: int) -> Tiles:
    """Tiles for `slots` routed slots and a layer `shape`: (format, E, H, I).

    The first entry of the table whose slots are not fewer; without a table, rows near the mean slots per expert.
    """
    for most, gate_up, down in TABLE.get(shape, []):
        if slots <= most:
            return Tiles(gate_up, down)
    mean = slots / shape[1]
    return _SAFE[next((rows for rows in (16, 32, 64) if mean <= rows), 128)]

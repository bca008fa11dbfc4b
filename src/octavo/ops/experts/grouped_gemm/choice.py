"""Which tiles a layer uses: from the table where its shape was tuned, safe ones elsewhere, persistent ones where there are many."""

from __future__ import annotations

import dataclasses
import math

from octavo.errors import KernelContractError
from octavo.ops.experts.grouped_gemm.persistent_tile import PersistentTile
from octavo.ops.experts.grouped_gemm.table import TABLE
from octavo.ops.experts.grouped_gemm.tile import Tile
from octavo.ops.formats import Fp8Block, Fp8Channel, Fp8Static


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The tiles of both grouped GEMMs of a layer; they share the permutation, so their `rows` are equal.

    Raises: KernelContractError where they are not.
    """

    gate_up: Tile | PersistentTile
    down: Tile | PersistentTile

    def __post_init__(self) -> None:
        if self.gate_up.rows != self.down.rows:
            raise KernelContractError(
                "tiles", "equal rows", f"{self.gate_up.rows} and {self.down.rows} (both products read one permutation)"
            )


_SAFE = {16: (64, 64, 4), 32: (64, 64, 4), 64: (64, 128, 4), 128: (64, 128, 4)}
"""Rows to columns of the products gate_up and down, and warps."""
_PERSISTENT_ABOVE = {("Fp8Channel", 128, 2048, 768): 11584, ("Fp8Block", 128, 2048, 768): 2896}
"""Assignments of tuned shapes above which persistent tiles were faster on an H200; a tuned shape that is not here has none."""
_PERSISTENT_MEAN = 16
"""Mean assignments per expert above which other shapes have them. They are as fast at about 24, between 16 and 32, where safe tiles change: a safe
tile that ended between those might be taken at no power of two. With one scale for each row and column the mean has to be above 64, where safe
tiles have as many rows, as one of them stays."""


def choose_tiles(
    shape: tuple[str, int, int, int], assignments: int, *, bulk: bool = True, persistent: bool = False
) -> Tiles:
    """Tiles for so many routed `assignments` and a layer `shape`: (the name of the weights' type, E, H, I).

    Those of `tuned_tiles`, and persistent ones where there are many, for each product that they can make.

    Args:
        bulk: whether bulk copies can read the operands.
        persistent: whether the device runs persistent tiles, and has operands for them.
    """
    gate_up, down = tuned_tiles(shape, assignments)
    if not bulk:
        return Tiles(dataclasses.replace(gate_up, tma=False), dataclasses.replace(down, tma=False, early=0))
    tiles = Tiles(gate_up, down)
    return _with_persistent_tiles(shape, tiles) if persistent and assignments > _persistent_above(shape) else tiles


def tuned_tiles(shape: tuple[str, int, int, int], assignments: int) -> tuple[Tile, Tile]:
    """The first entry of the table whose assignments are not fewer; without a table, safe ones. Arguments as `choose_tiles`."""
    entries = TABLE.get(_key(shape), [])
    return next(((up, down) for most, up, down in entries if assignments <= most), None) or _safe(shape, assignments)


def _persistent_above(shape: tuple[str, int, int, int]) -> float:
    """The assignments above which persistent tiles are the fastest known."""
    key = _key(shape)
    return _PERSISTENT_ABOVE.get(key, math.inf) if key in TABLE else _PERSISTENT_MEAN * shape[1]


def _with_persistent_tiles(shape: tuple[str, int, int, int], tiles: Tiles) -> Tiles:
    """Persistent ones for the products that they can make; none where the other product's tile has not as many rows."""
    kind, _, hidden, intermediate = shape
    tile = PersistentTile()
    gate_up = tiles.gate_up if tile.reasons_against(kind, intermediate, hidden, gated=True) else tile
    down = tiles.down if tile.reasons_against(kind, hidden, intermediate, gated=False) else tile
    return Tiles(gate_up, down) if gate_up.rows == down.rows else tiles


def _key(shape: tuple[str, int, int, int]) -> tuple[str, int, int, int]:
    """The shape whose measurements serve this one."""
    if shape[0] == Fp8Static.__name__:  # whose products read as many scales
        return (Fp8Channel.__name__, *shape[1:])
    return shape


def _safe(shape: tuple[str, int, int, int], assignments: int) -> tuple[Tile, Tile]:
    """Rows near the mean assignments per expert; two programs fit on a multiprocessor at every height."""
    kind, experts, hidden, intermediate = shape
    rows = next((rows for rows in (16, 32, 64) if assignments <= rows * experts), 128)
    gated, down, warps = _SAFE[rows]
    if kind == Fp8Block.__name__:
        down = 64  # products of one K step and sums are separate registers
    aligned = hidden % 16 == 0 and intermediate % 16 == 0
    return Tile(rows, gated, warps, 3, aligned), Tile(rows, down, warps, 3, aligned)

"""Which tiles a layer uses: from the table where its shape was tuned, by what tuned shapes have in common elsewhere, persistent ones where there
are many."""

from __future__ import annotations

import dataclasses
import math

from octavo.errors import KernelContractError
from octavo.ops.activations import BLOCK
from octavo.ops.experts.grouped_gemm.persistent_tile import STEP, PersistentTile
from octavo.ops.experts.grouped_gemm.table import TABLE
from octavo.ops.experts.grouped_gemm.tile import Tile
from octavo.ops.formats import Fp8Block, Fp8Channel, Fp8Static, Weights


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


_BY_MEAN = {
    False: [
        (11, Tile(16, 64, 4, 3, True, 0, 2), Tile(16, 128, 4, 3, True, 0, 2)),
        (90, Tile(64, 64, 4, 3, True, 2), Tile(64, 128, 4, 3, True, 2)),
        (math.inf, Tile(128, 64, 4, 3, True, 2), Tile(128, 128, 4, 3, True, 2)),
    ],
    True: [
        (11, Tile(16, 64, 4, 4, True), Tile(16, 128, 4, 3, True)),
        (45, Tile(64, 64, 4, 4, True, 2), Tile(64, 128, 4, 4, True, 2)),
        (math.inf, Tile(128, 64, 4, 3, True, 2), Tile(128, 64, 4, 3, True)),
    ],
}
"""By whether scales are per block: what tuned shapes have in common, up to a mean of assignments per expert."""
_FEW = 16
"""Assignments up to which products wait for their own loads more than for memory."""
_FEW_UP = (128, Tile(16, 64, 4, 4, True))
"""Of few: the tile of the first product where it has more programs than this with the tile of `_BY_MEAN`, about one for each of an H200's 132 multiprocessors: steps
that are short and more at once, as several programs share one."""
_FEW_DOWN = [(256, Tile(16, 64, 4, 2, True, 0, 2, 4)), (512, Tile(16, 128, 4, 3, True, 0, 1, 2))]
"""Of few: tiles of the second product, up to so many programs of 64 columns: of either tile some two for each multiprocessor, as all must be there at once
to load weights early."""
_PERSISTENT_ABOVE = {("Fp8Channel", 128, 2048, 768): 11584, ("Fp8Block", 128, 2048, 768): 2896}
"""Assignments of tuned shapes above which persistent tiles were faster on an H200; a tuned shape that is not here has none."""
_PERSISTENT_MEAN = 11
"""Mean assignments per expert above which other shapes have them, where tiles get higher. With one scale for each row and column the mean has to be
above 90, where tiles have as many rows, as one of them stays."""


def rounds(tile: Tile | PersistentTile, w: Weights) -> bool:
    """Whether the gated product with `w` can be rounded as it is stored: each program has all columns that share a scale."""
    return w.blockwise and (isinstance(tile, PersistentTile) or tile.cols == BLOCK)


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
    """The first entry of the table whose assignments are not fewer; without a table, those of `_by_mean`. Arguments as `choose_tiles`."""
    entries = TABLE.get(_key(shape), [])
    return next(((up, down) for most, up, down in entries if assignments <= most), None) or _by_mean(shape, assignments)


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


def _by_mean(shape: tuple[str, int, int, int], assignments: int) -> tuple[Tile, Tile]:
    """What is fast for tuned shapes at as many assignments per expert."""
    kind, experts, hidden, intermediate = shape
    blockwise = kind == Fp8Block.__name__
    gate_up, down = next((up, down) for mean, up, down in _BY_MEAN[blockwise] if assignments <= mean * experts)
    if assignments <= _FEW and gate_up.rows == _FEW_UP[1].rows and not blockwise:
        gate_up, down = _of_few(gate_up, down, assignments, hidden, intermediate)
    gate_up, down = _whole_steps(gate_up, hidden), _whole_steps(down, intermediate)
    if hidden % 16 == 0 and intermediate % 16 == 0:
        return gate_up, down
    return dataclasses.replace(gate_up, tma=False), dataclasses.replace(down, tma=False, early=0)


def _of_few(gate_up: Tile, down: Tile, assignments: int, hidden: int, intermediate: int) -> tuple[Tile, Tile]:
    """Tiles of few assignments in place of these, by how many programs each product has for the multiprocessors of an H200."""
    least, tile = _FEW_UP
    if assignments * math.ceil(intermediate / gate_up.cols) > least:
        gate_up = tile
    early = next((tile for most, tile in _FEW_DOWN if assignments * math.ceil(hidden / 64) <= most), down)
    return gate_up, early if intermediate > early.early * STEP else down


def _whole_steps(tile: Tile, width: int) -> Tile:
    """The same tile, with short steps where long ones would leave a part of K."""
    return tile if width % (tile.step_factor * STEP) == 0 else dataclasses.replace(tile, step_factor=1)

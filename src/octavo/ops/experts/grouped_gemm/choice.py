"""Which tiles a layer uses: from the table where its shape was tuned, safe ones elsewhere."""

from __future__ import annotations

import dataclasses

from octavo.ops.experts.grouped_gemm.table import TABLE
from octavo.ops.experts.grouped_gemm.tile import Tile
from octavo.ops.formats import Fp8Block, Fp8Channel, Fp8Static


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The tiles of both grouped GEMMs of a layer; they share the permutation, so their `rows` are equal."""

    gate_up: Tile
    down: Tile


_SAFE = {16: (64, 64, 4), 32: (64, 64, 4), 64: (64, 128, 4), 128: (64, 128, 4)}
"""Rows to columns of the products gate_up and down, and warps."""


def _safe(shape: tuple[str, int, int, int], assignments: int) -> Tiles:
    """Rows near the mean assignments per expert; two programs fit on a multiprocessor at every height."""
    kind, experts, hidden, intermediate = shape
    rows = next((rows for rows in (16, 32, 64) if assignments <= rows * experts), 128)
    gated, down, warps = _SAFE[rows]
    if kind == Fp8Block.__name__:
        down = 64  # products of one K step and sums are separate registers
    aligned = hidden % 16 == 0 and intermediate % 16 == 0
    return Tiles(Tile(rows, gated, warps, 3, aligned), Tile(rows, down, warps, 3, aligned))


def choose_tiles(shape: tuple[str, int, int, int], assignments: int) -> Tiles:
    """Tiles for so many routed `assignments` and a layer `shape`: (the name of the weights' type, E, H, I).

    The first entry of the table whose assignments are not fewer; without a table, safe ones.
    """
    if shape[0] == Fp8Static.__name__:  # whose products read as many scales
        shape = (Fp8Channel.__name__, *shape[1:])
    for most, gate_up, down in TABLE.get(shape, []):
        if assignments <= most:
            return Tiles(gate_up, down)
    return _safe(shape, assignments)

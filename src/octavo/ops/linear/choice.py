"""Tiles by the number of rows; the bits are the same with any."""

from __future__ import annotations

from octavo.ops.experts.grouped_gemm.tile import Tile


def choose_tile(rows: int, *, tma: bool, blockwise: bool = False) -> Tile:
    """Small tiles with many steps in flight while the weights are what is waited for, square ones from then on."""
    if rows <= 16:
        return Tile(16, 64, 4, 6, tma)
    if rows <= 32:
        return Tile(32, 64, 4, 6, tma)
    if rows <= 256:
        return Tile(64, 64, 4, 5, tma)
    if blockwise:
        return Tile(128, 64, 4, 3, tma)  # products of one K step and sums are separate registers
    return Tile(128, 128, 4, 3, tma)

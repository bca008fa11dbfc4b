"""Tiles by weight shape; written by tools/tune_moe.py from measurements."""

from __future__ import annotations

from octavo.kernels.grouped_gemm.tile import Tile

TABLE: dict[tuple[str, int, int, int], list[tuple[int, Tile, Tile]]] = {}

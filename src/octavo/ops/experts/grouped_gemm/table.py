"""Tiles by weight shape; written by tools/tune_moe.py from measurements."""

from __future__ import annotations

from octavo.ops.experts.grouped_gemm.tile import Tile

TABLE: dict[tuple[str, int, int, int], list[tuple[int, Tile, Tile]]] = {
    ("Fp8Channel", 128, 2048, 768): [
        (8, Tile(16, 64, 4, 4, True, 0, 2), Tile(16, 64, 4, 2, True, 0, 2, 4)),
        (16, Tile(16, 64, 4, 3, True, 0), Tile(16, 128, 4, 2, True, 0, 2, 2)),
        (32, Tile(16, 64, 4, 3, True, 0, 2), Tile(16, 128, 4, 2, True, 0, 2, 2)),
        (64, Tile(16, 64, 4, 3, True, 0, 2), Tile(16, 128, 4, 3, True, 0)),
        (256, Tile(16, 64, 4, 3, True, 0, 2), Tile(16, 128, 4, 3, True, 0, 2)),
        (720, Tile(16, 64, 4, 3, True, 0, 2), Tile(16, 128, 4, 4, True, 0)),
        (1448, Tile(16, 64, 4, 3, True, 0, 2), Tile(16, 128, 4, 3, True, 0)),
        (2896, Tile(64, 64, 4, 3, True, 2), Tile(64, 128, 4, 4, True, 2)),
        (5792, Tile(64, 64, 4, 3, True, 2), Tile(64, 128, 4, 3, True, 2)),
        (11584, Tile(64, 64, 4, 3, True, 2), Tile(64, 128, 4, 3, True, 2)),
        (23168, Tile(128, 64, 4, 3, True, 2), Tile(128, 128, 4, 3, True, 2)),
        (46336, Tile(128, 64, 4, 3, True, 2), Tile(128, 128, 4, 3, True, 2)),
        (131072, Tile(128, 64, 4, 3, True, 2), Tile(128, 128, 4, 3, True, 2)),
        (2147483647, Tile(128, 64, 4, 3, True, 0), Tile(128, 128, 4, 3, True, 0)),
    ],
    ("Fp8Block", 128, 2048, 768): [
        (16, Tile(16, 64, 4, 4, False, 0), Tile(16, 128, 4, 4, False, 0)),
        (64, Tile(16, 128, 4, 3, True, 0), Tile(16, 64, 4, 3, True, 0)),
        (256, Tile(16, 64, 4, 4, True, 0), Tile(16, 128, 4, 3, True, 0)),
        (720, Tile(16, 64, 4, 4, True, 0), Tile(16, 128, 4, 3, True, 0)),
        (1448, Tile(16, 64, 4, 4, True, 0), Tile(16, 64, 4, 3, True, 0)),
        (2896, Tile(32, 64, 4, 3, True, 1), Tile(32, 128, 4, 3, True, 1)),
        (5792, Tile(64, 64, 4, 4, True, 2), Tile(64, 128, 4, 4, True, 2)),
        (11584, Tile(128, 64, 4, 3, True, 2), Tile(128, 64, 4, 3, True, 0)),
        (23168, Tile(128, 64, 4, 3, True, 2), Tile(128, 64, 4, 3, True, 0)),
        (46336, Tile(128, 64, 4, 3, True, 2), Tile(128, 64, 4, 3, True, 0)),
        (131072, Tile(128, 64, 4, 3, True, 0), Tile(128, 64, 4, 3, True, 0)),
        (2147483647, Tile(128, 64, 4, 3, True, 0), Tile(128, 64, 4, 3, True, 0)),
    ],
    ("Fp8Channel", 8, 4096, 14336): [
        (2, Tile(16, 64, 4, 3, True, 0, 2), Tile(16, 128, 4, 6, True, 0, 2)),
        (4, Tile(16, 64, 4, 3, True, 0, 4), Tile(16, 128, 4, 4, False, 0, 2)),
        (10, Tile(16, 64, 4, 3, True, 0, 4), Tile(16, 64, 4, 4, True, 0, 4)),
        (22, Tile(16, 64, 4, 3, True, 0, 4), Tile(16, 128, 4, 4, True, 0, 2)),
        (64, Tile(16, 64, 4, 3, True, 0, 2), Tile(16, 128, 4, 3, True, 0, 4)),
        (180, Tile(32, 128, 8, 3, True, 1, 2), Tile(32, 128, 4, 4, True, 1, 2)),
        (362, Tile(64, 64, 4, 3, True, 2), Tile(64, 128, 4, 4, True, 2, 2)),
        (724, Tile(128, 64, 4, 3, True, 0), Tile(128, 128, 4, 3, True, 2)),
        (1448, Tile(128, 64, 4, 3, True, 2), Tile(128, 128, 4, 6, True, 2)),
        (2896, Tile(128, 64, 4, 3, True, 2), Tile(128, 128, 4, 6, True, 2)),
        (5792, Tile(128, 64, 4, 3, True, 0), Tile(128, 128, 4, 6, True, 2)),
        (11584, Tile(128, 64, 4, 3, True, 0), Tile(128, 128, 4, 3, True, 2)),
        (32768, Tile(256, 64, 8, 4, True, 2), Tile(256, 128, 8, 4, True, 2)),
        (2147483647, Tile(256, 64, 8, 4, True, 0), Tile(256, 128, 8, 4, True, 0)),
    ],
}

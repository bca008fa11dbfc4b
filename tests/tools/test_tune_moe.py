"""The table of tiles is written as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo.ops.experts.grouped_gemm import Tile
from octavo.ops.experts.grouped_gemm.table import TABLE
from tools import tune_moe


def test_a_tile_is_written_up_to_its_last_unusual_field() -> None:
    for tile, text in (
        (Tile(16, 64, 4, 3, True, 0), "Tile(16, 64, 4, 3, True, 0)"),
        (Tile(16, 64, 4, 3, False, 0, 2), "Tile(16, 64, 4, 3, False, 0, 2)"),
        (Tile(16, 64, 4, 2, True, 0, 1, 2), "Tile(16, 64, 4, 2, True, 0, 1, 2)"),
    ):
        assert tune_moe.written(tile) == text


def test_what_was_not_measured_stays_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another shape with one size: the table, and one entry more."""
    before = tune_moe.TABLE_FILE.read_text(encoding="utf-8")
    monkeypatch.setattr(tune_moe, "TABLE_FILE", tmp_path / "table.py")
    tile = Tile(16, 64, 4, 4, True)
    tune_moe.write_table(("Bf16", 3, 64, 32), [tune_moe.Found(1, 1.0, tile, tile, 1.0, tile, tile, {})], top_k=2)
    after = tune_moe.TABLE_FILE.read_text(encoding="utf-8")
    entry = f'    ("Bf16", 3, 64, 32): [\n        (2147483647, {tune_moe.written(tile)}, {tune_moe.written(tile)}),\n    ],\n'
    assert after.replace(entry, "") == before
    made: dict[str, object] = {}
    exec(after, made)
    assert made["TABLE"] == TABLE | {("Bf16", 3, 64, 32): [(2147483647, tile, tile)]}

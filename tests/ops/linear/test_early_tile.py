"""Tiles whose weights come early: where they are chosen and what they refuse, and that their kernel compiles. What it computes is for tests on a device."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch

from octavo.ops.experts.grouped_gemm.tile import SHARED_BYTES
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, LinearWeight
from octavo.ops.linear import early_tile
from octavo.ops.linear.choice import EARLY_PROGRAMS, EARLY_ROWS, choose_early
from octavo.ops.linear.early_tile import EarlyTile
from ops.hopper import compiled_by, spills
from ops.linear.early_launches import FORMS, KINDS, forms, weight

CPU = torch.device("cpu")


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_tile, "runs_persistent_kernels", lambda device: True)


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("kind", [Fp8Channel, Fp8Block, Bf16], ids=lambda kind: kind.__name__)
def test_every_choice_can_run_beside_those_that_share_its_multiprocessor(kind: type) -> None:
    shapes = itertools.product((1, 64, 513, 2048, 5120, 8448, 8512, 12288, 16896), (128, 640, 2048, 4096, 12288, 16384))
    chosen = 0
    for (columns, width), rows in itertools.product(shapes, (1, 16, 17, 32, 33, 64, 65, 128, 256, 257, EARLY_ROWS)):
        w = weight(kind, columns, width)
        tile = choose_early(rows, w)
        if tile is None:
            assert not expects_early(rows, w), (rows, columns, width)
            continue
        chosen += 1
        assert tile.reasons_against(w, CPU) == []
        assert tile.ring * tile.group(w) <= tile.steps(w)
        assert tile.ring >= min(2, tile.steps(w) // tile.group(w))
        programs = -(-columns // tile.columns) * -(-rows // tile.rows)
        room = tile.ring * tile.group_bytes(w) + tile.scale_bytes(w)
        # a multiprocessor has a KB more for each program, of its own
        assert (room + 1024) * -(-programs // EARLY_PROGRAMS) <= SHARED_BYTES + 1024
        assert tile.group(w) % tile.pending(w) == 0
        assert tile.steps(w) % tile.group(w) == 0
        assert tile.most_steps(w) >= (tile.steps(w) if kind is Fp8Block else 1)
    assert chosen > 300


def expects_early(rows: int, w: LinearWeight) -> bool:
    """Whether there must be a tile: as many programs of 64 rows as multiprocessors, or half as large ones beside few rows, with room for scales."""
    power = 1 << (rows - 1).bit_length()
    programs = -(-len(w.data) // 64) * -(-power // 64)
    room = not w.blockwise or w.data.shape[1] < 8192
    return room and (programs <= EARLY_PROGRAMS or (power <= 32 and programs <= 2 * EARLY_PROGRAMS))


@pytest.mark.parametrize(
    ("kind", "shape", "heights"),
    [
        (Fp8Channel, (5120, 2048), {16: 16, 32: 32, 64: 64, 65: None}),
        (Fp8Block, (5120, 2048), {16: 16, 32: 32, 64: 64, 128: 64, 129: None}),
        (Fp8Channel, (2048, 4096), {16: 16, 64: 16, 65: 32, 128: 32, 129: 64, 256: 64, 257: None}),
        (Fp8Block, (2048, 4096), {64: 16, 128: 32, 256: 64, 257: 64, 512: 64, 513: None}),
        (Bf16, (128, 2048), {1: 16, 1024: 16, 1025: None}),
        (Bf16, (513, 2048), {128: 16, 129: 32, 512: 64, 1024: None}),
        (Fp8Channel, (12288, 2048), {16: 16, 17: 32, 64: 64, 65: None}),
        (Fp8Channel, (151936, 2048), {1: None}),
    ],
    ids=str,
)
def test_tiles_are_as_low_as_programs_run_at_once(
    kind: type, shape: tuple[int, int], heights: dict[int, int | None]
) -> None:
    for rows, height in heights.items():
        tile = choose_early(rows, weight(kind, *shape))
        assert (tile and tile.rows) == height, rows


@pytest.mark.parametrize("kind", [Fp8Channel, Fp8Block, Bf16], ids=lambda kind: kind.__name__)
def test_no_tile_is_chosen_only_between_two_powers_of_two(kind: type) -> None:
    """A start compiles what these need (`load_kernels`)."""
    for columns, width in itertools.product((64, 5120, 12288), (640, 2048, 4096)):
        w = weight(kind, columns, width)
        visited = {choose_early(1 << power, w) for power in range(14)}
        assert all(choose_early(rows, w) in visited for rows in range(1, 1100))


def test_many_columns_take_other_tiles() -> None:
    assert choose_early(1, weight(Bf16, 2 * EARLY_PROGRAMS * 64, 2048)) is not None
    assert choose_early(1, weight(Bf16, 2 * EARLY_PROGRAMS * 64 + 1, 2048)) is None


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(
    ("tile", "kind", "width", "reason"),
    [
        (EarlyTile(16, 1), Fp8Channel, 128, None),
        (EarlyTile(16, 1), Bf16, 64, None),
        (EarlyTile(16, 1), Bf16, 96, "64 bytes of K"),
        (EarlyTile(16, 1), Fp8Block, 200, "72 bytes of K"),
        (EarlyTile(48, 1), Fp8Channel, 128, "rows 48"),
        (EarlyTile(16, 0), Fp8Channel, 128, "ring 0"),
        (EarlyTile(16, 6), Fp8Channel, 512, "shared memory"),
        (EarlyTile(16, 1, 3), Fp8Channel, 512, "together 3"),
        (EarlyTile(16, 1, 0), Fp8Channel, 512, "together 0"),
        (EarlyTile(128, 2), Fp8Block, 512 * 128, "shared memory"),
    ],
)
def test_a_tile_says_what_it_cannot_make(tile: EarlyTile, kind: type, width: int, reason: str | None) -> None:
    reasons = tile.reasons_against(weight(kind, 64, width), CPU)
    assert len(reasons) == (reason is not None)
    assert all(reason in text and ("use" in text or "shorter" in text) for text in reasons if reason)


@pytest.mark.parametrize("kind", [Fp8Channel, Fp8Block, Bf16], ids=lambda kind: kind.__name__)
def test_it_is_refused_where_kernels_are_not_compiled(kind: type) -> None:
    reasons = EarlyTile(16, 1).reasons_against(weight(kind, 80, 256), CPU)
    assert [reason for reason in reasons if reason.startswith("cpu: use a DenseTile where")] == reasons != []


@pytest.mark.parametrize("kind", KINDS)
def test_it_compiles_without_spills_and_waits_between_weights_and_rows(kind: str, tmp_path: Path) -> None:
    compiled = compiled_by("ops.linear.early_launches", tmp_path, kind)
    expected = {name: tile for name, (_, tile, _) in forms(kind).items()}
    assert compiled.keys() == expected.keys()
    assert {form for _, _, form in forms(kind).values()} == FORMS.keys()
    assert {(tile.rows, tile.together) for tile in expected.values()} >= {(16, 4), (32, 4), (64, 4), (64, 2)}
    for name, names in compiled.items():
        tile, bias = expected[name], name.endswith("bias")
        # a group's steps of four wgmma each; with scales per block as many as are pending stand in the loop
        group = 1 if "x640-" in name and kind != "bf16" else 2 if "x640-" in name else tile.together
        pending = min(group, 128 // tile.rows) if kind == "block" else group
        assert sum("GMMA" in each for each in names) == 4 * pending
        # in the order of the code, which that of instructions is not
        early, wait, late = (tmp_path / f"{name}.ttgir").read_text().partition("griddepcontrol.wait")
        assert wait
        assert [part.count("async_tma_copy_global_to_local") for part in (early, late)] == [1, 3], "rows come early"
        scales = {"channel": 1, "bf16": 0, "block": 1}[kind]
        assert [part.count("tt.load") for part in (early, late)] == [scales + bias, scales], (
            "scales of rows are read early"
        )
        assert early.count("cacheModifier = cg") == scales + bias, "the first cache may hold what was there before"
        meetings = [len(re.findall(r"^ +(?:gpu|ttg)\.barrier", part, re.MULTILINE)) for part in (early, late)]
        assert meetings == [1, 1], "all warps meet before a place is asked for again"
        assert spills(names) == 0, name

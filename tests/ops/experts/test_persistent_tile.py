"""Where persistent tiles run, and where they are chosen; what they compute is for tests on a device."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from cases import LayerShape, make_weights
from octavo.errors import KernelContractError
from octavo.ops.experts import moe as layer
from octavo.ops.experts.grouped_gemm import PersistentTile, Tile, Tiles, choose_tiles
from octavo.ops.experts.grouped_gemm.choice import tuned_tiles
from octavo.ops.experts.moe import moe_workspace
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel
from octavo.ops.persistent import runs_persistent_kernels
from ops.experts.test_grouped_gemm import down_case, gate_up_case
from ops.test_bulk_copy import product, shifted

ONE_EXPERT = LayerShape("one-expert", 1, 1, 256, 128)


@pytest.mark.parametrize(
    ("kind", "columns", "width", "gated", "reason"),
    [
        ("Fp8Block", 768, 2048, True, None),
        ("Fp8Channel", 768, 2048, True, "the gated product of Fp8Channel"),
        ("Fp8Static", 768, 2048, True, "the gated product of Fp8Static"),
        ("Fp8Channel", 2048, 768, False, None),
        ("Fp8Static", 2048, 768, False, None),
        ("Fp8Block", 128, 128, True, None),
        ("Bf16", 768, 2048, True, "Bf16"),
        ("Bf16", 2048, 768, False, "Bf16"),
        ("Fp8Block", 768, 2000, True, "K 2000"),
        ("Fp8Channel", 768, 0, False, "K 0"),
        ("Fp8Block", 704, 2048, True, "704 columns"),
        ("Fp8Block", 2176, 768, False, "2176 columns"),
        ("Fp8Block", 2176, 768, True, None),
    ],
)
def test_a_persistent_tile_says_what_it_cannot_make(
    kind: str, columns: int, width: int, gated: bool, reason: str | None
) -> None:
    reasons = PersistentTile().reasons_against(kind, columns, width, gated=gated)
    assert len(reasons) == (reason is not None)
    assert all(reason in text and "use" in text for text in reasons if reason is not None)


def test_it_is_refused_where_it_cannot_run_with_all_reasons(device: torch.device) -> None:
    """In the interpreter everywhere; on Hopper for what a shape or a format is not."""
    shape = LayerShape("odd", 8, 2, 144, 96)
    for kind in (Fp8Channel, Fp8Block, Bf16):
        for make, gated in ((gate_up_case, True), (down_case, False)):
            with pytest.raises(KernelContractError) as error:
                product(make(kind, shape, 3, "uniform", device), PersistentTile(), gated=gated)
            told = str(error.value)
            assert "K " in told
            assert "columns" in told
            assert (f"of {kind.__name__}" in told) == (kind is Bf16 or (kind is Fp8Channel and make is gate_up_case))
            assert ("9.0" in told) == (not runs_persistent_kernels(device))


def test_no_rows_are_no_reason_to_skip_the_check(device: torch.device) -> None:
    case = gate_up_case(Fp8Channel, LayerShape("odd", 8, 2, 144, 96), 0, "uniform", device)
    with pytest.raises(KernelContractError, match="K 144"):
        product(case, PersistentTile(), gated=True)


def test_the_interpreter_and_a_cpu_run_none() -> None:
    assert not runs_persistent_kernels(torch.device("cpu"))


BOTH, GATE_UP, DOWN = (True, True), (True, False), (False, True)


def persistent_instead(tiles: Tiles, products: tuple[bool, bool]) -> Tiles:
    """`tiles` but for persistent ones of some of the two `products`."""
    gate_up, down = products
    return Tiles(PersistentTile() if gate_up else tiles.gate_up, PersistentTile() if down else tiles.down)


@pytest.mark.parametrize(
    ("shape", "above", "products"),
    [
        (("Fp8Channel", 128, 2048, 768), 11584, DOWN),
        (("Fp8Static", 128, 2048, 768), 11584, DOWN),
        (("Fp8Block", 128, 2048, 768), 2896, BOTH),
        (("Fp8Block", 512, 2048, 512), 11 * 512, BOTH),
        (("Fp8Block", 60, 2176, 1408), 45 * 60, GATE_UP),
        (("Fp8Block", 60, 2048, 1344), 10**6, (False, False)),
        (("Fp8Channel", 64, 2048, 1024), 90 * 64, DOWN),
        (("Fp8Static", 60, 2000, 1408), 10**6, (False, False)),
        (("Fp8Channel", 60, 2048, 1400), 10**6, (False, False)),
        (("Fp8Channel", 8, 4096, 14336), 10**6, (False, False)),  # tuned, and not with them
        (("Bf16", 64, 2048, 1024), 10**6, (False, False)),
    ],
    ids=str,
)
def test_they_are_chosen_for_many_assignments(
    shape: tuple[str, int, int, int], above: int, products: tuple[bool, bool]
) -> None:
    assert choose_tiles(shape, above, persistent=True) == Tiles(*tuned_tiles(shape, above))
    for many in (above + 1, 2**31 - 1):
        others = Tiles(*tuned_tiles(shape, many))
        assert choose_tiles(shape, many, persistent=True) == persistent_instead(others, products)
        assert choose_tiles(shape, many) == others
        without_bulk_copies = Tiles(*(dataclasses.replace(tile, tma=False) for tile in tuned_tiles(shape, many)))
        assert choose_tiles(shape, many, bulk=False, persistent=True) == without_bulk_copies


def test_both_tiles_of_a_layer_have_as_many_rows() -> None:
    with pytest.raises(KernelContractError, match="64 and 128"):
        Tiles(Tile(64, 64, 4, 3), PersistentTile())


@pytest.mark.parametrize(("kind", "products"), [(Fp8Channel, DOWN), (Fp8Block, BOTH)])
def test_a_layer_takes_them_where_device_and_operands_allow(
    kind: type, products: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = torch.Generator().manual_seed(1)
    gate_up = make_weights(kind, 1, 2, ONE_EXPERT.intermediate, ONE_EXPERT.hidden, drawn)
    down = make_weights(kind, 1, 1, ONE_EXPERT.hidden, ONE_EXPERT.intermediate, drawn)
    workspace = moe_workspace(91, 1, gate_up, down)
    x = workspace.input.data

    def chosen() -> Tiles:
        return layer._choose(x, gate_up, down, workspace, 91)

    monkeypatch.setattr(layer, "runs_persistent_kernels", lambda device: False)
    tuned = tuned_tiles((kind.__name__, 1, ONE_EXPERT.hidden, ONE_EXPERT.intermediate), 91)
    others = Tiles(*tuned)
    assert all(tile.tma for tile in tuned)
    assert chosen() == others
    monkeypatch.setattr(layer, "runs_persistent_kernels", lambda device: True)
    assert chosen() == persistent_instead(others, products)
    x = shifted(workspace.input).data  # which the first product gathers
    assert chosen() == others
    x = workspace.input.data
    down = shifted(down)
    assert chosen() == Tiles(*(dataclasses.replace(tile, tma=False) for tile in tuned))


@pytest.mark.parametrize("kind", ["Fp8Channel", "Fp8Static", "Bf16", "Fp8Block"])
@pytest.mark.parametrize("experts", [1, 2, 3, 128])
def test_few_assignments_have_tiles_of_one_height(kind: str, experts: int) -> None:
    """Of a single expert they are many."""
    for (hidden, intermediate), count in itertools.product([(2048, 512), (2880, 704)], range(1, 33)):
        choose_tiles((kind, experts, hidden, intermediate), count)

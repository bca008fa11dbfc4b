"""Tiles that a layer chooses can run: of any formats and sizes, for any number of assignments, where a device runs persistent kernels and where not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.errors import KernelContractError
from octavo.ops.experts import moe
from octavo.ops.experts.grouped_gemm import PersistentTile, Tiles, _check_tile, choose_tiles
from octavo.ops.experts.grouped_gemm.table import TABLE
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, Fp8Static, Weights

FORMATS = [Fp8Channel, Fp8Static, Fp8Block, Bf16]
META = torch.device("meta")
WIDTHS = st.one_of(st.integers(1, 300), st.sampled_from([384, 512, 640, 768, 1024, 1408, 2048, 2880, 4096, 14336]))


def weights(kind: type, *shape: int) -> Weights:
    """(E, N, K) without memory."""
    experts, rows, columns = shape
    data = torch.empty(shape, dtype=torch.bfloat16 if kind is Bf16 else torch.float8_e4m3fn, device=META)
    if kind is Bf16:
        return Bf16(data)
    if kind is Fp8Block:
        return Fp8Block(data, torch.empty((experts, -(-rows // 128), -(-columns // 128)), device=META))
    scale = torch.empty((experts, rows), device=META)
    if kind is Fp8Channel:
        return Fp8Channel(data, scale)
    return Fp8Static(data, scale, input_scales=torch.empty(1, device=META))


def assert_legal(kinds: tuple[type, type], sizes: tuple[int, int, int], assignments: int, *, hopper: bool) -> None:
    experts, hidden, intermediate = sizes
    gate_up = weights(kinds[0], experts, 2 * intermediate, hidden)
    down = weights(kinds[1], experts, hidden, intermediate)
    workspace = moe.moe_workspace(1, 1, gate_up, down)
    x = torch.empty((1, hidden), dtype=gate_up.data.dtype, device=META)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moe, "runs_persistent_kernels", lambda _device: hopper)
        tiles = moe._choose(x, gate_up, down, workspace, assignments)
    for tile, w, gated in ((tiles.gate_up, gate_up, True), (tiles.down, down, False)):
        columns, width = w.data.shape[1] // (2 if gated else 1), w.data.shape[2]
        if isinstance(tile, PersistentTile):
            assert hopper
            assert tile.reasons_against(type(w).__name__, columns, width, gated=gated) == []
            continue
        _check_tile(tile, w, width, gated)
        # bulk copies bring rows of whole 16 bytes
        assert not tile.tma or width * w.data.element_size() % 16 == 0


@settings(deadline=None, max_examples=400)
@given(
    kinds=st.tuples(st.sampled_from(FORMATS), st.sampled_from(FORMATS)),
    experts=st.sampled_from([1, 2, 8, 60, 128, 512]),
    hidden=WIDTHS,
    intermediate=WIDTHS,
    assignments=st.one_of(st.integers(1, 100), st.integers(1, 2**20)),
    hopper=st.booleans(),
)
def test_of_drawn_layers(
    kinds: tuple[type, type], experts: int, hidden: int, intermediate: int, assignments: int, hopper: bool
) -> None:
    assert_legal(kinds, (experts, hidden, intermediate), assignments, hopper=hopper)


@pytest.mark.parametrize("shape", TABLE, ids=str)
def test_of_layers_in_the_table(shape: tuple[str, int, int, int]) -> None:
    """Behind and before each border, in their own format, in one that takes the same tiles, and beside a product in bf16."""
    kind, *sizes = shape
    own = next(each for each in FORMATS if each.__name__ == kind)
    pairs = [(own, own), (own, Bf16), (Bf16, own)] + ([(Fp8Static, Fp8Static)] if own is Fp8Channel else [])
    for most, _, _ in TABLE[shape]:
        for assignments in (most, min(most + 1, 2**20)):
            for kinds in pairs:
                assert_legal(kinds, (sizes[0], sizes[1], sizes[2]), min(assignments, 2**20), hopper=True)


def test_tiles_that_cannot_run_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: one of two formats takes the tiles of the first alone."""
    both = (Fp8Channel, Fp8Block)
    assert_legal(both, (8, 512, 256), 64, hopper=False)

    def choose(shape: tuple[str, int, int, int], assignments: int, **options: bool) -> Tiles:
        return choose_tiles(("Fp8Channel", *shape[1:]), assignments, **options)

    monkeypatch.setattr(moe, "choose_tiles", choose)
    with pytest.raises(KernelContractError, match="step_factor"):
        assert_legal(both, (8, 512, 256), 64, hopper=False)

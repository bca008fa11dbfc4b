"""What a bulk copy cannot read is refused by name, or read without one: the same bits."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch

from cases import SMALL
from octavo.errors import KernelContractError
from octavo.ops.activations import FP8, Activations, GroupScaled, StaticScaled, TokenScaled
from octavo.ops.bulk_copy import ROOM_ROWS, empty_with_room, in_whole_tiles
from octavo.ops.experts.grouped_gemm import (
    PersistentTile,
    Tile,
    Tiles,
    grouped_gemm,
    grouped_gemm_swiglu,
    grouped_gemm_swiglu_quantize,
)
from octavo.ops.experts.grouped_gemm.block_kernel import HALF
from octavo.ops.experts.moe import moe, moe_workspace
from octavo.ops.experts.permute import permute
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, Fp8Static
from octavo.ops.gates.cuda import gate_heads, swiglu
from octavo.ops.linear.choice import EARLY_HEIGHTS, choose_block_tile, choose_tile
from octavo.ops.linear.dense_gemm import AnyTile, DenseTile, EarlyTile, dense_gemm
from octavo.ops.norm.cuda import add_norm
from octavo.ops.quantize.cuda import quantize, quantize_groups, quantize_static, swiglu_quantize
from ops.experts.test_grouped_gemm import Case, down_case, gate_up_case
from ops.linear.test_dense_gemm import Case as Product

TMA = Tile(16, 64, 4, 4, tma=True)
FORMATS = pytest.mark.parametrize("kind", [Fp8Channel, Bf16], ids=lambda kind: kind.__name__)


def shifted(value: Any) -> Any:
    """`value` with `data` one element past an address that is a multiple of 16."""
    data = value.data
    room = torch.empty(data.numel() + 16, dtype=data.dtype, device=data.device)
    moved = room[1 : 1 + data.numel()].view(data.shape)
    moved.copy_(data)
    assert moved.data_ptr() % 16
    return dataclasses.replace(value, data=moved)


@pytest.mark.parametrize("kind", [Fp8Channel, Bf16], ids=lambda kind: kind.__name__)
def test_a_linear_layer(kind: type, device: torch.device) -> None:
    case = Product.draw(kind, 5, 80, 128, device)

    def run(x: Any, w: Any, tile: DenseTile | None = None) -> torch.Tensor:
        return dense_gemm(x, w, out=torch.empty((5, 80), dtype=torch.float32, device=device), tile=tile)

    bulk = DenseTile(16, 64, 4, 4, tma=True)
    expected = run(case.x, case.w, bulk)
    for x, w, name in ((shifted(case.x), case.w, r"x\.data"), (case.x, shifted(case.w), r"w\.data")):
        assert torch.equal(run(x, w), expected)
        with pytest.raises(KernelContractError, match=name):
            run(x, w, bulk)


def product(case: Case, tile: Tile | PersistentTile, x: Any = None, w: Any = None, *, gated: bool) -> torch.Tensor:
    experts, rows, _ = case.w.data.shape
    permutation, assignments, device = (
        permute(case.ids, experts, tile_rows=tile.rows),
        case.ids.numel(),
        case.ids.device,
    )
    out = torch.zeros((assignments, rows // 2 if gated else rows), dtype=torch.bfloat16, device=device)
    x, w = x or case.x, w or case.w
    if gated and isinstance(tile, PersistentTile):
        scales = torch.zeros(GroupScaled.scale_shape(assignments, rows // 2), device=device)
        codes = GroupScaled(torch.zeros_like(out, dtype=FP8), scales)
        sizes = {"top_k": case.ids.shape[1], "assignments": assignments}
        return grouped_gemm_swiglu_quantize(x, w, permutation, tile=tile, out=codes, **sizes).values()
    if gated:
        assert isinstance(tile, Tile)
        return grouped_gemm_swiglu(
            x, w, permutation, top_k=case.ids.shape[1], tile=tile, out=out, assignments=assignments
        )
    return grouped_gemm(x, w, permutation, tile=tile, out=out, assignments=assignments)


@FORMATS
@pytest.mark.parametrize("gated", [True, False], ids=["gate-up", "down"])
def test_the_products_of_experts(gated: bool, kind: type, device: torch.device) -> None:
    make = gate_up_case if gated else down_case
    case = make(kind, SMALL[0], 3, "uniform", device)
    expected, plain = product(case, TMA, gated=gated), dataclasses.replace(TMA, tma=False)
    with pytest.raises(KernelContractError, match=r"w\.data"):
        product(case, TMA, w=shifted(case.w), gated=gated)
    assert torch.equal(product(case, plain, w=shifted(case.w), gated=gated), expected)
    if gated:  # its rows are gathered, never copied in bulk
        assert torch.equal(product(case, TMA, x=shifted(case.x), gated=True), expected)
        return
    with pytest.raises(KernelContractError, match=r"x\.data"):
        product(case, TMA, x=shifted(case.x), gated=False)
    assert torch.equal(product(case, plain, x=shifted(case.x), gated=False), expected)


@FORMATS
def test_the_expert_layer(kind: type, device: torch.device) -> None:
    up, down = (make(kind, SMALL[0], 3, "uniform", device).w for make in (gate_up_case, down_case))
    x = torch.randn((3, SMALL[0].hidden), generator=torch.Generator().manual_seed(1)).bfloat16().to(device)
    ids = torch.zeros((3, 1), dtype=torch.int32, device=device)
    weights = torch.ones((3, 1), device=device)
    workspace = moe_workspace(3, 1, up, down)

    def run(up: Any, down: Any, tiles: Tiles | None = None) -> torch.Tensor:
        out, flags = torch.empty_like(x), torch.empty(3, dtype=torch.bool, device=device)
        return moe(x, ids, weights, up, down, workspace=workspace, out=out, flags=flags, tiles=tiles)

    expected = run(up, down, Tiles(TMA, TMA))
    for one, other in ((shifted(up), down), (up, shifted(down))):
        assert torch.equal(run(one, other), expected)
        with pytest.raises(KernelContractError, match=r"w\.data"):
            run(one, other, Tiles(TMA, TMA))


@pytest.mark.parametrize("rows", [0, 1, 16, 96, 128, 129])
def test_room_is_as_many_rows_as_fill_a_tile(rows: int, device: torch.device) -> None:
    made = empty_with_room((rows, 3, 16), torch.bfloat16, device)
    assert made.shape == (rows, 3, 16)
    assert made.is_contiguous()
    for height in (64, 128):
        whole = in_whole_tiles(made.flatten(1), height)
        assert whole.data_ptr() == made.data_ptr()
        assert whole.shape == (-(-rows // height) * height, 48)
    for height in (16, 32):
        assert in_whole_tiles(made.flatten(1), height).shape == (rows, 48)


def test_rows_are_of_the_storage_alone(device: torch.device) -> None:
    """Seven rows from the fourth on, behind which lie two and a half more."""
    storage = torch.arange(3 * 32 + 7 * 32 + 80, device=device)
    matrix = storage[3 * 32 :][: 7 * 32].view(7, 32)
    whole = in_whole_tiles(matrix, 64)
    assert whole.shape == (9, 32)
    assert torch.equal(whole.flatten(), storage[96 : 96 + 9 * 32])
    assert in_whole_tiles(matrix.clone(), 64).shape == (7, 32)


@pytest.mark.parametrize("kind", [Fp8Channel, Fp8Static, Fp8Block, Bf16], ids=lambda kind: kind.__name__)
def test_what_lies_in_room_is_in_no_row(kind: type, device: torch.device) -> None:
    """Behind 21 rows lies NaN, or nothing. On the device: `tests/gpu/test_room.py`."""
    case = Product.draw(kind, 21, 80, 128, device)
    room = empty_with_room((21, 128), case.x.data.dtype, device)
    in_whole_tiles(room, 128).view(torch.uint8).fill_(0xFF)
    room.copy_(case.x.data)
    for tile in (DenseTile(64, 64, 4, 3, tma=True), DenseTile(128, 64, 4, 3, tma=True)):
        out = torch.full((21, 80), torch.nan, dtype=torch.float32, device=device)
        dense_gemm(dataclasses.replace(case.x, data=room), case.w, out=out, tile=tile)
        assert torch.equal(out, case.run(tile, torch.float32))


@pytest.mark.parametrize("form", [TokenScaled, GroupScaled, StaticScaled], ids=lambda form: form.__name__)
def test_what_products_read_has_room(form: type[Activations], device: torch.device) -> None:
    """As norms, quantizers and gates make it."""
    rows = torch.ones((21, 256), dtype=torch.bfloat16, device=device)
    gates = rows.view(21, 2, 128)
    made: list[torch.Tensor] = [
        gate_heads(rows, gates).bf16,
        swiglu(torch.cat((rows, rows), 1).float()),
        add_norm(rows, None, rows[0].clone(), 1e-6)[1].bf16,
    ]
    if form is TokenScaled:
        made.append(quantize(rows).data)
        made.append(swiglu_quantize(torch.cat((rows, rows), 1)).data)
    elif form is GroupScaled:
        made.append(quantize_groups(rows).data)
        made += [given.data for given in (gate_heads(rows, gates, form).scaled,) if given is not None]
    else:
        made.append(quantize_static(rows, torch.ones(1, device=device)).data)
    scaled = add_norm(rows, None, rows[0].clone(), 1e-6, forms=frozenset({form}))[1].scaled
    assert (scaled is None) == (form is StaticScaled)
    made += [scaled.data] if scaled is not None else []
    assert len(made) >= 4
    for matrix in made:
        assert in_whole_tiles(matrix, 64).shape[0] == 64


class Recorder:
    """In place of a kernel: keeps the arguments of its launch."""

    def __init__(self) -> None:
        self.arguments: tuple[Any, ...] = ()

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments, **_constants: setattr(self, "arguments", arguments)


LAUNCHES: dict[str, tuple[type, AnyTile, str, str, int, int]] = {
    "dense": (Fp8Channel, DenseTile(64, 128, 4, 3, tma=True), "linear.dense_gemm", "dense_gemm_kernel", 0, 64),
    "dense, low": (Fp8Channel, DenseTile(16, 64, 4, 3, tma=True), "linear.dense_gemm", "dense_gemm_kernel", 0, 37),
    "early": (Fp8Block, EarlyTile(64, 2, 1), "linear.early", "early_dense_kernel", 0, 64),
    "early, low": (Fp8Block, EarlyTile(32, 2, 1), "linear.early", "early_dense_kernel", 0, 37),
    "persistent, blocks": (Fp8Block, PersistentTile(), "experts.grouped_gemm.persistent", "grouped_block_kernel", 1, 64),
    "persistent, channels": (
        Fp8Channel, PersistentTile(), "experts.grouped_gemm.persistent", "grouped_channel_kernel", 0, 37,
    ),
}  # fmt: skip
"""The weights' type, the tile, the module and the kernel that it launches, where its arguments have the descriptor of x, and the rows that it describes of 37."""


@pytest.mark.parametrize("name", LAUNCHES)
def test_rows_that_are_described_and_rows_that_are_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of x the first in whole tiles, of W as they are; the second, R, stands behind them in the arguments, and none larger does."""
    kind, tile, module, kernel, place, described = LAUNCHES[name]
    case = Product.draw(kind, 37, 512, 256, torch.device("cpu"))
    room = empty_with_room((37, 256), FP8, torch.device("cpu"))
    room.copy_(case.x.data)
    recorder = Recorder()
    monkeypatch.setattr(f"octavo.ops.{module}.{kernel}", recorder)
    monkeypatch.setattr("octavo.ops.experts.grouped_gemm.persistent.multiprocessors", lambda _device: 132)
    monkeypatch.setattr("octavo.ops.linear.dense_gemm._check_early", lambda *_: None)
    monkeypatch.setattr("octavo.ops.linear.dense_gemm._check_persistent", lambda *_: None)
    out = torch.empty((37, 512), dtype=torch.bfloat16)
    dense_gemm(dataclasses.replace(case.x, data=room), case.w, out=out, tile=tile)
    heights = [argument.shape[-2] for argument in recorder.arguments if hasattr(argument, "block_shape")]
    numbers = [argument for argument in recorder.arguments if isinstance(argument, int)]
    assert heights == [described, 512]
    assert hasattr(recorder.arguments[place], "block_shape")
    assert numbers[0] == 37
    assert described == 37 or described not in numbers


def test_room_is_whole_tiles_of_each_height() -> None:
    """That is chosen for up to a thousand rows."""
    heights = {*EARLY_HEIGHTS, HALF.value}
    for rows, columns in itertools.product((1, 16, 32, 64, 128, 256, 512, 1024), (64, 2048, 5120, 151936)):
        heights |= {choose_tile(rows, columns, 32, 1).rows, choose_block_tile(rows).rows}
    assert {64, 128} <= heights
    assert all(ROOM_ROWS % height == 0 for height in heights), heights

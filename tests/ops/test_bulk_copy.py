"""What a bulk copy cannot read is refused by name, or read without one: the same bits."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from cases import SMALL
from octavo.errors import KernelContractError
from octavo.ops.experts.grouped_gemm import PersistentTile, Tile, Tiles, grouped_gemm, grouped_gemm_swiglu
from octavo.ops.experts.moe import moe, moe_workspace
from octavo.ops.experts.permute import permute
from octavo.ops.formats import Bf16, Fp8Channel
from octavo.ops.linear.dense_gemm import DenseTile, dense_gemm
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
    if gated:
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

"""Persistent tiles on Hopper: the bits of all other tiles, whatever the routing and whatever the list of tiles says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from cases import QWEN3_30B, ROUTINGS, LayerShape
from layer import CUDA, GpuLayer
from memory import Guard
from octavo.errors import KernelContractError
from octavo.ops.activations import Activations
from octavo.ops.experts.grouped_gemm import PersistentTile, Tiles, grouped_gemm, grouped_gemm_swiglu
from octavo.ops.experts.grouped_gemm.choice import tuned_tiles
from octavo.ops.experts.permute import Permutation, permute
from octavo.ops.formats import Fp8Block, Fp8Channel, Fp8Static
from ops.experts.test_grouped_gemm import (
    assert_case,
    down_case,
    gate_up_case,
    mutations,
    permutation_of,
    placed,
    run_down,
    run_gate_up,
)
from ops.test_bulk_copy import product, shifted

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]
FORMATS = [Fp8Channel, Fp8Static, Fp8Block]
PERSISTENT = Tiles(PersistentTile(), PersistentTile())
WHOLE_STEPS = LayerShape("whole-steps", 8, 2, 768, 640)
MAX_TOKENS = 8192
HUGE = 2**31 - 1
each_format = pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.__name__)


def routed(case: str) -> tuple[torch.Tensor, int | None]:
    """ids (T, 8) int32 of Qwen3-30B-A3B's experts, and how many tokens are in use; None for all."""
    experts, top_k = QWEN3_30B.experts, QWEN3_30B.top_k
    drawn = torch.Generator().manual_seed(3)
    name, tokens = case.rstrip("0123456789"), int(case.lstrip("abcdefghijklmnopqrstuvwxyz-"))
    match name:
        case "ends-":  # expert e has e rows, and so every end of a tile that there is; other assignments are absent
            ids = torch.full((tokens * top_k,), -1, dtype=torch.int32)
            rows = torch.arange(experts).repeat_interleave(torch.arange(experts)).int()
            ids[torch.randperm(len(ids), generator=drawn)[: len(rows)]] = rows
            return ids.view(tokens, top_k), None
        case "skewed-":  # most rows are one expert's, half of the experts have none, some assignments are absent
            ids = torch.randint(0, experts // 2, (tokens, top_k), generator=drawn).int()
            ids[:, :5] = 37
            ids[torch.rand(ids.shape, generator=drawn) < 0.01] = -1
            return ids, None
        case "few-experts-":
            return torch.randint(0, 3, (tokens, top_k), generator=drawn).int() * 50, None
    ids = ROUTINGS["uniform"](tokens, experts, top_k, drawn)
    return ids, tokens * 5 // 8 + 3 if name == "part-" else None


CASES = [
    "ends-1024",
    "uniform-1",
    "uniform-512",
    "skewed-512",
    "few-experts-512",
    "skewed-2048",
    "part-2048",
    "uniform-8192",
]


@dataclasses.dataclass(frozen=True)
class Products:
    """Both products of a layer for routed tokens, each from rows of its own."""

    layer: GpuLayer
    ids: torch.Tensor
    in_use: torch.Tensor | None
    x: Activations
    h: Activations

    @classmethod
    def draw(cls, layer: GpuLayer, case: str) -> Products:
        ids, in_use = routed(case)
        drawn, held = torch.Generator(CUDA).manual_seed(4), layer.workspace
        x = torch.randn((len(ids), layer.shape.hidden), generator=drawn, device=CUDA).bfloat16()
        h = torch.randn((ids.numel(), layer.shape.intermediate), generator=drawn, device=CUDA).bfloat16()
        return cls(
            layer,
            ids.to(CUDA),
            None if in_use is None else torch.tensor([in_use], dtype=torch.int32, device=CUDA),
            layer.gate_up.activate(x, held.input.quantizer(None)),
            layer.down.activate(h, held.hidden_quantized.quantizer(None)),
        )

    def others(self) -> Tiles:
        """Tiles of the other kernel."""
        shape = self.layer.shape
        key = (type(self.layer.down).__name__, shape.experts, shape.hidden, shape.intermediate)
        return Tiles(*tuned_tiles(key, self.ids.numel()))

    def permutation(self, tiles: Tiles) -> Permutation:
        return permute(self.ids, self.layer.shape.experts, tile_rows=tiles.gate_up.rows, rows_in_use=self.in_use)

    def run(self, tiles: Tiles, permutation: Permutation | None = None) -> list[torch.Tensor]:
        """(S, I) in sorted order and (S, H) in assignment order, bf16; NaN where nothing is written."""
        permutation, assignments = permutation or self.permutation(tiles), self.ids.numel()
        up, down = (
            torch.full((assignments, width), torch.nan, dtype=torch.bfloat16, device=CUDA)
            for width in (self.layer.shape.intermediate, self.layer.shape.hidden)
        )
        grouped_gemm_swiglu(
            self.x, self.layer.gate_up, permutation,
            top_k=self.ids.shape[1], tile=tiles.gate_up, out=up, assignments=assignments,
        )  # fmt: skip
        grouped_gemm(self.h, self.layer.down, permutation, tile=tiles.down, out=down, assignments=assignments)
        return [up, down]


def wrong_rows(out: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """(rows with other bits,) int64"""
    return (out.view(torch.int16) != expected.view(torch.int16)).any(-1).nonzero().flatten()


@pytest.fixture(scope="module", params=FORMATS, ids=lambda kind: kind.__name__)
def qwen(request: pytest.FixtureRequest) -> Iterator[GpuLayer]:
    yield GpuLayer.make(request.param, QWEN3_30B, MAX_TOKENS)
    torch.cuda.empty_cache()


@pytest.mark.parametrize("case", CASES)
def test_the_bits_are_those_of_other_tiles(qwen: GpuLayer, case: str) -> None:
    products = Products.draw(qwen, case)
    expected = products.run(products.others())
    in_use = int(products.permutation(PERSISTENT).rows_in_use)
    assert [int((~rows.isnan()).any(-1).sum()) for rows in expected] == [in_use, in_use]
    for again in range(5):
        for out, wanted in zip(products.run(PERSISTENT), expected, strict=True):
            assert wrong_rows(out, wanted).tolist() == [], again


def test_the_comparison_sees_one_row_and_one_expert(qwen: GpuLayer) -> None:
    """The twins: signs of one token's row, and of one expert's weights, are others."""
    products = Products.draw(qwen, "uniform-512")
    up, down = products.run(products.others())
    order = products.permutation(PERSISTENT).order.long()
    products.x.data.view(torch.uint8)[301] ^= 0x80
    qwen.down.data.view(torch.uint8)[77] ^= 0x80
    try:
        wrong_up, wrong_down = products.run(PERSISTENT)
    finally:
        qwen.down.data.view(torch.uint8)[77] ^= 0x80
    tokens = order[wrong_rows(wrong_up, up)] // QWEN3_30B.top_k
    assert tokens.tolist() == [301] * QWEN3_30B.top_k
    assert torch.equal(wrong_rows(wrong_down, down), (products.ids.flatten() == 77).nonzero().flatten())


def test_a_graph_serves_every_number_of_tiles(qwen: GpuLayer) -> None:
    products = Products.draw(qwen, "uniform-2048")
    permutation = products.permutation(PERSISTENT)
    products.run(PERSISTENT, permutation)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outs = products.run(PERSISTENT, permutation)
    for case in ("skewed-2048", "few-experts-2048", "ends-2048", "uniform-2048", "none"):
        products.ids.copy_(routed(case)[0] if case != "none" else torch.full_like(products.ids, -1))
        permute(products.ids, QWEN3_30B.experts, tile_rows=PersistentTile.rows, out=permutation)
        graph.replay()
        for out, wanted in zip(outs, products.run(products.others()), strict=True):
            assert wrong_rows(out, wanted).tolist() == [], case


@each_format
@pytest.mark.parametrize("routing", list(ROUTINGS))
def test_against_float64_between_canaries(routing: str, kind: type) -> None:
    for tokens in (1, 301):
        case = gate_up_case(kind, WHOLE_STEPS, tokens, routing, CUDA)
        assert_case(run_gate_up(case, PersistentTile(), Guard(CUDA)), case)
        case = down_case(kind, WHOLE_STEPS, tokens, routing, CUDA)
        assert_case(run_down(case, PersistentTile(), Guard(CUDA)), case)


@each_format
@pytest.mark.parametrize("form", ["gate-up", "down"])
def test_the_check_sees_one_wrong_thing(form: str, kind: type) -> None:
    make, run = (gate_up_case, run_gate_up) if form == "gate-up" else (down_case, run_down)
    for name in mutations(make(kind, WHOLE_STEPS, 33, "uniform", CUDA)):
        case = make(kind, WHOLE_STEPS, 33, "uniform", CUDA)
        mutations(case)[name]()
        out = run(case, PersistentTile(), Guard(CUDA))
        with pytest.raises(AssertionError, match="row"):
            assert_case(out, case)


@each_format
def test_operands_that_bulk_copies_cannot_read_are_refused(kind: type) -> None:
    """Rows that are gathered too, 16 bytes at a time. A layer takes other tiles then."""
    for make, gated in ((gate_up_case, True), (down_case, False)):
        case = make(kind, WHOLE_STEPS, 3, "uniform", CUDA)
        with pytest.raises(KernelContractError, match=r"w\.data"):
            product(case, PersistentTile(), w=shifted(case.w), gated=gated)
        with pytest.raises(KernelContractError, match=r"x\.data"):
            product(case, PersistentTile(), x=shifted(case.x), gated=gated)


ENTRIES = [
    (0, 0, HUGE),
    (1, 40, 129),
    (2, 601, HUGE),
    (HUGE, 0, 128),
    (8, 0, 128),
    (-1, 0, 128),
    (-HUGE, 0, 128),
    (3, HUGE, 128),
    (3, HUGE - 127, HUGE),
    (3, -1, 128),
    (3, -HUGE, HUGE),
    (4, 128, -5),
    (4, 128, 0),
]
"""Expert, first row and rows as no permutation writes them, for 8 experts and 609 assignments."""
ORDER = [-1, HUGE, -HUGE, -(2**31), 609, 610, 602]


@each_format
@pytest.mark.parametrize("gated", [True, False], ids=["gate-up", "down"])
@pytest.mark.parametrize("num_tiles", [None, HUGE, 0, -1, -(2**31)])
def test_a_list_of_tiles_from_corrupt_memory_is_not_followed(num_tiles: int | None, gated: bool, kind: type) -> None:
    """It ends, and neither reads nor writes outside tensors (`test_guard_pages.py` has the reads of lists that are right)."""
    case, guard = (gate_up_case if gated else down_case)(kind, WHOLE_STEPS, 301, "uniform", CUDA), Guard(CUDA)
    permutation = permutation_of(case, PersistentTile(), guard)
    assert permutation.assignments == 609
    in_use = int(permutation.num_tiles)
    permutation.order[::5][: len(ORDER)] = torch.tensor(ORDER, dtype=torch.int32, device=CUDA)
    for first in (0, in_use):
        entries = torch.tensor(ENTRIES, dtype=torch.int32, device=CUDA)[: len(permutation.tiles) - first]
        permutation.tiles[first : first + len(entries)] = entries
    permutation.num_tiles.fill_(len(ENTRIES) if num_tiles is None else num_tiles)
    w, assignments = guard.rebuild_copy(case.w), case.ids.numel()
    columns = case.w.data.shape[1] // (2 if gated else 1)
    out = guard.empty((permutation.assignments, columns), torch.bfloat16)
    if gated:
        x = guard.rebuild_copy(case.x)
        grouped_gemm_swiglu(x, w, permutation, top_k=2, tile=PersistentTile(), out=out, assignments=assignments)
    else:
        x = placed(case.x, torch.arange(assignments, device=CUDA), permutation.assignments, guard)
        grouped_gemm(x, w, permutation, tile=PersistentTile(), out=out, assignments=assignments)
    guard.check()
    assert bool(out.isnan().all()) == (num_tiles is not None and num_tiles <= 0)

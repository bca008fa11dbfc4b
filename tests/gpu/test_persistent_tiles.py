"""Persistent tiles on Hopper: the bits of all other tiles, whatever the routing and whatever the list of tiles says."""

from __future__ import annotations

import copy
import dataclasses
import functools

import pytest
import torch

from cases import ROUTINGS, LayerShape
from compare import assert_rows
from layer import CUDA, GpuLayer
from memory import Guard
from octavo.errors import KernelContractError
from octavo.ops.activations import FP8, Activations, GroupScaled
from octavo.ops.experts.grouped_gemm import (
    PersistentTile,
    Tile,
    grouped_gemm,
    grouped_gemm_swiglu,
    grouped_gemm_swiglu_quantize,
)
from octavo.ops.experts.permute import Permutation, permute
from octavo.ops.formats import Fp8Block, Fp8Channel, Fp8Static, Weights
from octavo.ops.quantize.cuda import quantize_groups
from ops.experts.test_grouped_gemm import (
    Case,
    assert_case,
    down_case,
    gate_up_case,
    mutations,
    permutation_of,
    placed,
    run_down,
)
from ops.test_bulk_copy import product, shifted

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]
MANY = LayerShape("many-experts", 128, 8, 768, 640)
FEW = LayerShape("few-experts", 12, 8, 768, 640)
"""As wide, and as many experts of a token: the same compiled kernels."""
OTHER = Tile(64, 64, 4, 3, tma=True)
"""Has the bits of all others (`test_same_bits.py`)."""
MAX_TOKENS = 2048
TOKENS = 151
HUGE = 2**31 - 1
FP8_ROUNDING = 0.04
"""Of a row in e4m3, whose codes have three bits behind the first; numbers of one size err by 2.6 % of the row."""
FORMS = [(Fp8Block, True), (Fp8Block, False), (Fp8Channel, False), (Fp8Static, False)]
each_form = pytest.mark.parametrize(
    ("kind", "gated"), FORMS, ids=[f"{kind.__name__}-{'gate-up' if gated else 'down'}" for kind, gated in FORMS]
)


def routed(case: str) -> tuple[torch.Tensor, int | None]:
    """ids (T, 8) int32 of many experts, and how many tokens are in use; None for all."""
    experts, top_k = MANY.experts, MANY.top_k
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


CASES = ["ends-1024", "uniform-1", "skewed-512", "few-experts-512", "part-2048", "uniform-2048"]


@functools.cache
def layer_of(kind: type) -> GpuLayer:
    return GpuLayer.make(kind, MANY, MAX_TOKENS)


@functools.cache
def case_of(kind: type, gated: bool, tokens: int, routing: str) -> Case:
    return (gate_up_case if gated else down_case)(kind, FEW, tokens, routing, CUDA)


@dataclasses.dataclass(frozen=True)
class Product:
    """One product of a layer of many experts for routed tokens."""

    w: Weights
    x: Activations
    gated: bool
    ids: torch.Tensor
    in_use: torch.Tensor | None

    @classmethod
    def draw(cls, kind: type, gated: bool, case: str) -> Product:
        layer, (ids, in_use) = layer_of(kind), routed(case)
        w, (rows, width) = (
            (layer.gate_up, (len(ids), MANY.hidden)) if gated else (layer.down, (ids.numel(), MANY.intermediate))
        )
        room = layer.workspace.input if gated else layer.workspace.hidden_quantized
        x = torch.randn((rows, width), generator=torch.Generator(CUDA).manual_seed(4), device=CUDA).bfloat16()
        count = None if in_use is None else torch.tensor([in_use], dtype=torch.int32, device=CUDA)
        return cls(w, w.activate(x, room.quantizer(None)), gated, ids.to(CUDA), count)

    def permutation(self, tile: Tile | PersistentTile) -> Permutation:
        return permute(self.ids, MANY.experts, tile_rows=tile.rows, rows_in_use=self.in_use)

    def run(self, tile: Tile | PersistentTile, permutation: Permutation | None = None) -> torch.Tensor:
        """(S, H) bf16 in assignment order, NaN where nothing is written; if gated, (S, I + I / 32) uint8 in sorted order, codes and scales, which are
        codes of 0 and NaN there: those of an other tile are made by `quantize_groups`."""
        permutation, assignments = permutation or self.permutation(tile), self.ids.numel()
        columns = MANY.intermediate if self.gated else MANY.hidden
        out = torch.full((assignments, columns), torch.nan, dtype=torch.bfloat16, device=CUDA)
        if not self.gated:
            return grouped_gemm(self.x, self.w, permutation, tile=tile, out=out, assignments=assignments)
        scales = torch.full(GroupScaled.scale_shape(assignments, columns), torch.nan, device=CUDA)
        codes = GroupScaled(torch.zeros_like(out, dtype=FP8), scales)
        if isinstance(tile, PersistentTile):
            grouped_gemm_swiglu_quantize(
                self.x, self.w, permutation, top_k=MANY.top_k, tile=tile, out=codes, assignments=assignments
            )
        else:
            grouped_gemm_swiglu(
                self.x, self.w, permutation, top_k=MANY.top_k, tile=tile, out=out, assignments=assignments
            )
            quantize_groups(out, rows_in_use=permutation.rows_in_use, out=codes)
        return torch.cat([codes.data.view(torch.uint8), scales.view(torch.uint8)], 1)


def wrong_rows(out: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """(rows with other bits,) int64"""
    return (out.view(torch.uint8) != expected.view(torch.uint8)).any(-1).nonzero().flatten()


@each_form
@pytest.mark.parametrize("case", CASES)
def test_the_bits_are_those_of_other_tiles(case: str, kind: type, gated: bool) -> None:
    drawn = Product.draw(kind, gated, case)
    expected = drawn.run(OTHER)
    written = expected[:, : MANY.intermediate].any(-1) if gated else (~expected.isnan()).any(-1)
    assert int(written.sum()) == int(drawn.permutation(OTHER).rows_in_use)
    for again in range(3):
        assert wrong_rows(drawn.run(PersistentTile()), expected).tolist() == [], again


@each_form
def test_the_comparison_sees_one_row_and_one_expert(kind: type, gated: bool) -> None:
    """The twins: signs of one row of x, and of one expert's weights, are others."""
    drawn = Product.draw(kind, gated, "skewed-512")
    expected, order, ids = drawn.run(OTHER), drawn.permutation(OTHER).order.long(), drawn.ids.flatten()
    of_row = (ids.view(-1, MANY.top_k)[301] >= 0).nonzero().flatten() + 301 * MANY.top_k if gated else order[301:302]
    for part, place, touched in (("x", 301, of_row), ("w", 41, (ids == 41).nonzero().flatten())):
        changed = copy.deepcopy(drawn)
        getattr(changed, part).data.view(torch.uint8)[place] ^= 0x80
        wrong = wrong_rows(changed.run(PersistentTile()), expected)
        assert sorted((order[wrong] if gated else wrong).tolist()) == touched.tolist()


@each_form
def test_a_graph_serves_every_number_of_tiles(kind: type, gated: bool) -> None:
    drawn = Product.draw(kind, gated, "uniform-2048")
    permutation = drawn.permutation(PersistentTile())
    drawn.run(PersistentTile(), permutation)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = drawn.run(PersistentTile(), permutation)
    for case in ("skewed-2048", "few-experts-2048", "ends-2048", "uniform-2048", "none"):
        drawn.ids.copy_(routed(case)[0] if case != "none" else torch.full_like(drawn.ids, -1))
        permute(drawn.ids, MANY.experts, tile_rows=PersistentTile.rows, out=permutation)
        graph.replay()
        assert wrong_rows(out, drawn.run(OTHER)).tolist() == [], case


def run_case(case: Case, gated: bool) -> torch.Tensor:
    """In assignment order, NaN where nothing is written: (S, H) bf16, or if gated the values (S, I) float64 of codes and scales."""
    if not gated:
        return run_down(case, PersistentTile(), Guard(CUDA))
    guard, tile, assignments = Guard(CUDA), PersistentTile(), case.ids.numel()
    permutation = permutation_of(case, tile, guard)
    shape = (permutation.assignments, case.w.data.shape[1] // 2)
    codes = GroupScaled(guard.empty(shape, FP8), guard.empty(GroupScaled.scale_shape(*shape), torch.float32))
    x, w = guard.rebuild_copy(case.x), guard.rebuild_copy(case.w)
    grouped_gemm_swiglu_quantize(
        x, w, permutation, top_k=case.ids.shape[1], tile=tile, out=codes, assignments=assignments
    )
    guard.check()
    used, values = int(permutation.rows_in_use), codes.values()
    assert codes.scale[used:].isnan().all()
    assert values[used:].isnan().all(), "rows not in use were written"
    by_assignment = torch.full_like(values[:assignments], torch.nan)
    by_assignment[permutation.order[:used].long()] = values[:used]
    return by_assignment


def assert_right(out: torch.Tensor, case: Case, gated: bool) -> None:
    """`assert_case`, with what codes lose where the product is rounded to them."""
    if not gated:
        assert_case(out, case)
        return
    present = case.present
    assert_rows(out.cpu()[present], case.expected[present], FP8_ROUNDING)
    absent = sorted(set(range(len(out))) - set(present.tolist()))
    assert out[absent].isnan().all(), "rows of absent assignments were written"


@each_form
@pytest.mark.parametrize(("tokens", "routing"), [(1, "uniform"), *((TOKENS, routing) for routing in ROUTINGS)])
def test_against_float64_between_canaries(tokens: int, routing: str, kind: type, gated: bool) -> None:
    case = case_of(kind, gated, tokens, routing)
    assert_right(run_case(case, gated), case, gated)


@each_form
def test_the_check_sees_one_wrong_thing(kind: type, gated: bool) -> None:
    right = case_of(kind, gated, TOKENS, "uniform")
    for name in mutations(right):
        case = copy.deepcopy(right)
        mutations(case)[name]()
        out = run_case(case, gated)
        with pytest.raises(AssertionError, match="row"):
            assert_right(out, case, gated)


@each_form
def test_operands_that_bulk_copies_cannot_read_are_refused(kind: type, gated: bool) -> None:
    """Rows that are gathered too, 16 bytes at a time. A layer takes other tiles then."""
    case = case_of(kind, gated, TOKENS, "uniform")
    with pytest.raises(KernelContractError, match=r"w\.data"):
        product(case, PersistentTile(), w=shifted(case.w), gated=gated)
    with pytest.raises(KernelContractError, match=r"x\.data"):
        product(case, PersistentTile(), x=shifted(case.x), gated=gated)


ROOM = TOKENS * FEW.top_k + 7
"""Assignments of the permutation below."""
ENTRIES = [
    (0, 0, HUGE),
    (1, 40, 129),
    (2, ROOM - 8, HUGE),
    (HUGE, 0, 128),
    (FEW.experts, 0, 128),
    (-1, 0, 128),
    (-HUGE, 0, 128),
    (3, HUGE, 128),
    (3, HUGE - 127, HUGE),
    (3, -1, 128),
    (3, -HUGE, HUGE),
    (4, 128, -5),
    (4, 128, 0),
]
"""Expert, first row and rows as no permutation writes them."""
ORDER = [-1, HUGE, -HUGE, -(2**31), ROOM, ROOM + 1, ROOM - 7]


@each_form
@pytest.mark.parametrize("num_tiles", [None, HUGE, 0, -1, -(2**31)])
def test_a_list_of_tiles_from_corrupt_memory_is_not_followed(num_tiles: int | None, kind: type, gated: bool) -> None:
    """It ends, and neither reads nor writes outside tensors (`test_guard_pages.py` has the reads of lists that are right)."""
    case, guard = case_of(kind, gated, TOKENS, "uniform"), Guard(CUDA)
    permutation = permutation_of(case, PersistentTile(), guard)
    assert permutation.assignments == ROOM
    in_use = int(permutation.num_tiles)
    permutation.order[::5][: len(ORDER)] = torch.tensor(ORDER, dtype=torch.int32, device=CUDA)
    for first in (0, in_use):
        entries = torch.tensor(ENTRIES, dtype=torch.int32, device=CUDA)[: len(permutation.tiles) - first]
        permutation.tiles[first : first + len(entries)] = entries
    permutation.num_tiles.fill_(len(ENTRIES) if num_tiles is None else num_tiles)
    w, assignments = guard.rebuild_copy(case.w), case.ids.numel()
    shape = (permutation.assignments, case.w.data.shape[1] // (2 if gated else 1))
    if gated:
        x, out = guard.rebuild_copy(case.x), guard.empty(GroupScaled.scale_shape(*shape), torch.float32)
        codes = GroupScaled(guard.empty(shape, FP8), out)
        grouped_gemm_swiglu_quantize(
            x, w, permutation, top_k=FEW.top_k, tile=PersistentTile(), out=codes, assignments=assignments
        )
    else:
        out = guard.empty(shape, torch.bfloat16)
        x = placed(case.x, torch.arange(assignments, device=CUDA), permutation.assignments, guard)
        grouped_gemm(x, w, permutation, tile=PersistentTile(), out=out, assignments=assignments)
    guard.check()
    assert bool(out.isnan().all()) == (num_tiles is not None and num_tiles <= 0)

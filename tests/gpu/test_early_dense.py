"""Tiles whose weights come early, on Hopper: the bits of all other tiles, from one row to as many as they are chosen for."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from layer import CUDA
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, Fp8Static
from octavo.ops.launch import LAUNCH
from octavo.ops.linear.choice import EARLY_ROWS, early_tile
from octavo.ops.linear.dense_gemm import DenseTile, EarlyTile, choose, dense_gemm
from octavo.ops.linear.early_tile import STEP_BYTES
from octavo.ops.quantize.cuda import CudaQuantizer
from ops.linear.test_dense_gemm import Case
from ops.test_bulk_copy import shifted

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]
SHAPES = [(513, 640), (64, 2048), (513, 2048), (5120, 2048), (2048, 4096), (12288, 2048)]
"""N, K: of steps that come one by one and in fours, that all fit into shared memory and that do not, of programs alone on a multiprocessor and not."""
COUNTS = (1, 8, 16, 17, 33, 64, 65, 128, 129, 256, 257, 500, 512, 513, 1000, EARLY_ROWS)
"""Of rows."""
OTHER = DenseTile(64, 64, 4, 3)
"""Has the bits of all others (`tests/ops/linear`)."""
each_kind = pytest.mark.parametrize("kind", [Fp8Channel, Fp8Static, Fp8Block, Bf16], ids=lambda kind: kind.__name__)


def drawn(kind: type, rows: int, columns: int, width: int) -> Case:
    """A product with a bias whose sums round, in every place of all its sides."""
    case = Case.draw(kind, rows, columns, width, CUDA, bias=True)
    noise = torch.Generator(CUDA).manual_seed(rows + columns)
    for side in (case.x, case.w):
        side.data.copy_(torch.randn(side.data.shape, generator=noise, device=CUDA).to(side.data.dtype))
    return case


def run(case: Case, tile: DenseTile | EarlyTile | None, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """(T, N); NaN where nothing is written."""
    out = torch.full((len(case.x.data), len(case.w.data)), torch.nan, dtype=dtype, device=CUDA)
    return dense_gemm(case.x, case.w, out=out, tile=tile)


@each_kind
@pytest.mark.parametrize(("columns", "width"), SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_bits_are_those_of_other_tiles(kind: type, columns: int, width: int, dtype: torch.dtype) -> None:
    """By the tile that is chosen, and by each height with rings of other lengths and fewer steps that come together; for one shape at every number of
    rows up to 200."""
    case = drawn(kind, EARLY_ROWS, columns, width)
    expected = run(case, OTHER, dtype)
    assert not expected.isnan().any()
    for count in {*range(1, 201), *COUNTS} if (columns, width) == SHAPES[0] else COUNTS:
        some = case.rows(slice(0, count))
        assert torch.equal(run(some, None, dtype), expected[:count]), count
        for height in (16, 32, 64, 128):
            longest = early_tile(count, height, case.w)
            if not longest:
                continue
            assert longest.reasons_against(case.w, CUDA) == []
            for ring, together in itertools.product({longest.ring, 1}, {longest.together, 2, 1}):
                tile = EarlyTile(height, ring, min(longest.together, together))
                assert torch.equal(run(some, tile, dtype), expected[:count]), (count, tile)


@each_kind
def test_few_rows_are_for_early_tiles(kind: type) -> None:
    for columns, width in SHAPES:
        case = drawn(kind, 16, columns, width)
        out = torch.empty((16, columns), dtype=torch.bfloat16, device=CUDA)
        assert isinstance(choose(case.x, case.w, out), EarlyTile)


@each_kind
def test_what_lies_beside_is_left(kind: type) -> None:
    """Between canaries, with operands that end where their rows end."""
    for count in (1, 7, 8, 15, 16, 17, 33, 65, 127, 128):
        case = drawn(kind, count, 200, 1280)
        for height in (16, 64):
            tile = early_tile(count, height, case.w)
            assert tile is not None
            assert torch.equal(case.run(tile), run(case, OTHER)), (count, height)


@each_kind
@pytest.mark.parametrize("rows", [3, 40, 100])
def test_the_comparison_sees_one_row_one_column_and_one_step(kind: type, rows: int) -> None:
    """The twins: one number of x, one of W, and the last one of W, are others."""
    case = drawn(kind, rows, 513, 4096)
    tile, expected = early_tile(rows, 32, case.w), run(case, OTHER, torch.float32)
    for side, place, wrong_rows, wrong_columns in (
        ("x", (2, 100), [2], None),
        ("w", (77, 5), None, [77]),
        ("w", (512, 4095), None, [512]),
    ):
        data = getattr(case, side).data.clone()
        data[place] = data[place].float() + 2.0
        other = dataclasses.replace(case, **{side: dataclasses.replace(getattr(case, side), data=data)})
        wrong = run(other, tile, torch.float32) != expected
        assert wrong_rows is None or wrong.any(1).nonzero().flatten().tolist() == wrong_rows
        assert wrong_columns is None or wrong.any(0).nonzero().flatten().tolist() == wrong_columns


@each_kind
def test_a_bad_row_stays_alone(kind: type) -> None:
    case = drawn(kind, 20, 513, 640)
    expected = run(case, OTHER)
    case.x.data[13].fill_(torch.nan)
    out = run(case, early_tile(20, 16, case.w))
    good = [row for row in range(20) if row != 13]
    assert out[13].isnan().all()
    assert torch.equal(out[good], expected[good])


@each_kind
def test_rows_that_the_kernel_before_writes_are_waited_for(kind: type) -> None:
    """In a graph right behind the kernel that writes x, which is other each time: for FP8 the rounding of another product's output, for bf16 that product."""
    assert LAUNCH["PDL"]
    first, second = drawn(Bf16, 4, 2048, 8192), drawn(kind, 4, 513, 2048)
    made = torch.empty((4, 2048), dtype=torch.bfloat16, device=CUDA)
    out = torch.empty((4, 513), dtype=torch.bfloat16, device=CUDA)

    def both(*, apart: bool) -> None:
        dense_gemm(first.x, first.w, out=made, tile=OTHER)
        x = second.w.activate(made, CudaQuantizer())
        if apart:
            torch.cuda.synchronize()
        dense_gemm(x, second.w, out=out, tile=early_tile(4, 16, second.w))

    both(apart=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        both(apart=False)
    noise = torch.Generator(CUDA).manual_seed(0)
    for _ in range(20):
        first.x.data.copy_(torch.randn((4, 8192), generator=noise, device=CUDA))
        both(apart=True)
        expected = out.clone()
        first.x.data.neg_()
        both(apart=True)
        assert not torch.equal(out, expected), "x makes no difference"
        first.x.data.neg_()
        graph.replay()
        assert torch.equal(out, expected)


@each_kind
def test_operands_that_bulk_copies_cannot_read_take_other_tiles(kind: type) -> None:
    case = drawn(kind, 4, 512, 2048)
    expected = run(case, OTHER)
    moved = dataclasses.replace(case, x=shifted(case.x))
    assert isinstance(choose(moved.x, moved.w, expected), DenseTile)
    assert torch.equal(run(moved, None), expected)
    odd = drawn(kind, 4, 512, 2048 + STEP_BYTES // 2 // case.w.data.element_size())
    assert isinstance(choose(odd.x, odd.w, expected), DenseTile)
    assert torch.equal(run(odd, None), run(odd, OTHER))

"""Persistent tiles of one matrix on Hopper: the bits of all other tiles, at every number of rows."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from layer import CUDA
from octavo.errors import KernelContractError
from octavo.ops.experts.grouped_gemm import PersistentTile
from octavo.ops.formats import Fp8Block, Fp8Channel, Fp8Static
from octavo.ops.linear.dense_gemm import DenseTile, dense_gemm
from ops.linear.test_dense_gemm import Case
from ops.test_bulk_copy import shifted

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]
MOST = 2100
SHAPES = [(512, 640), (5120, 2048), (2048, 4096)]
"""N, K: one small, and two of Qwen3-30B-A3B."""
OTHER = DenseTile(64, 64, 4, 3, tma=True)
"""Has the bits of all others (`tests/ops/linear`)."""
each_kind = pytest.mark.parametrize("kind", [Fp8Channel, Fp8Static, Fp8Block], ids=lambda kind: kind.__name__)


def drawn(kind: type, rows: int, columns: int, width: int) -> Case:
    """A product whose sums round, in every place of all its sides."""
    case = Case.draw(kind, rows, columns, width, CUDA)
    noise = torch.Generator(CUDA).manual_seed(rows + columns)
    for side in (case.x, case.w):
        side.data.copy_(torch.randn(side.data.shape, generator=noise, device=CUDA).to(side.data.dtype))
    return case


def run(case: Case, tile: DenseTile | PersistentTile | None) -> torch.Tensor:
    """(T, N) bf16; NaN where nothing is written."""
    out = torch.full((len(case.x.data), len(case.w.data)), torch.nan, dtype=torch.bfloat16, device=CUDA)
    return dense_gemm(case.x, case.w, out=out, tile=tile)


@each_kind
@pytest.mark.parametrize(("columns", "width"), SHAPES, ids=str)
def test_the_bits_are_those_of_other_tiles(kind: type, columns: int, width: int) -> None:
    case = drawn(kind, MOST, columns, width)
    expected = run(case, OTHER)
    assert not expected.isnan().any()
    counts = [*range(1, 260), 383, 384, 385, 1024, 2047, MOST] if columns == 512 else [1, 33, 129, 1001, MOST]
    for count in counts:
        for _ in range(2):
            assert torch.equal(run(case.rows(slice(0, count)), PersistentTile()), expected[:count]), count


@each_kind
def test_every_number_of_rows_leaves_what_lies_beside(kind: type) -> None:
    """Between canaries, with operands that end where their rows end."""
    for count in (1, 31, 32, 33, 64, 65, 127, 128, 129, 400):
        case = drawn(kind, count, 512, 640)
        assert torch.equal(case.run(PersistentTile()), run(case, OTHER)), count


@each_kind
def test_the_comparison_sees_one_row_one_column_and_one_step(kind: type) -> None:
    """The twins: the sign of a row of x, of a row of W, and of one number of the last step of K, are others."""
    case = drawn(kind, 300, 512, 640)
    expected = run(case, OTHER)
    for side, place, rows, columns in (
        ("x", (211,), [211], None),
        ("w", (77,), None, [77]),
        ("w", (400, 639), None, [400]),
    ):
        data = getattr(case, side).data.clone()
        data.view(torch.uint8)[place] ^= 0x80
        other = dataclasses.replace(case, **{side: dataclasses.replace(getattr(case, side), data=data)})
        wrong = run(other, PersistentTile()).view(torch.int16) != expected.view(torch.int16)
        assert rows is None or wrong.any(1).nonzero().flatten().tolist() == rows
        assert columns is None or wrong.any(0).nonzero().flatten().tolist() == columns


@each_kind
def test_a_bad_row_stays_alone(kind: type) -> None:
    case = drawn(kind, 300, 512, 640)
    expected = run(case, OTHER)
    case.x.data[137].fill_(torch.nan)
    out = run(case, PersistentTile())
    good = [row for row in range(300) if row != 137]
    assert out[137].isnan().all()
    assert torch.equal(out[good], expected[good])


@each_kind
def test_a_graph_holds_it(kind: type) -> None:
    case = drawn(kind, 700, 512, 640)
    expected = run(case, OTHER)
    run(case, PersistentTile())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run(case, PersistentTile())
    for _ in range(3):
        out.fill_(torch.nan)
        graph.replay()
        assert torch.equal(out, expected)


@each_kind
def test_large_products_take_them_and_others_do_not(kind: type) -> None:
    """What is chosen has the same bits: where operands lie so that bulk copies cannot read them, too."""
    case = drawn(kind, MOST, 5120, 2048)
    expected = run(case, OTHER)
    assert torch.equal(run(case, None), expected)
    moved = dataclasses.replace(case, x=shifted(case.x))
    assert torch.equal(run(moved, None), expected)
    with pytest.raises(KernelContractError, match=r"x\.data"):
        run(moved, PersistentTile())

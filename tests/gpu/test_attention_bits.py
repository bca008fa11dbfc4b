"""Paged attention at the heads of Qwen3-30B-A3B and of Qwen3.6: right, and the same bits by itself, in chunks, at every depth of the
pipeline, and by any warps."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from cases import QWEN3_6_HEADS, QWEN3_30B_HEADS, HeadShape
from compare import BF16_ROUNDING, assert_rows
from layer import CUDA
from octavo.ops.attention.cuda import SPLIT
from paged import Chunk, Request, attend, poisoned, whole, write

pytestmark = pytest.mark.gpu
LENGTH = 3 * SPLIT + 70
BLOCKS = list(range(-(-LENGTH // 16)))[::-1]


@pytest.fixture(scope="module", params=[QWEN3_30B_HEADS, QWEN3_6_HEADS], ids=lambda shape: shape.name)
def shape(request: pytest.FixtureRequest) -> HeadShape:
    made: HeadShape = request.param
    return made


@pytest.fixture(scope="module")
def drawn(shape: HeadShape) -> Request:
    return Request.draw(LENGTH, shape, seed=1)


@pytest.fixture(scope="module")
def expected(drawn: Request, shape: HeadShape) -> torch.Tensor:
    return whole(drawn, shape, CUDA)


@pytest.fixture
def cache(drawn: Request, shape: HeadShape) -> torch.Tensor:
    made = poisoned(len(BLOCKS), 16, shape, CUDA)
    write(Chunk(drawn, 0, LENGTH, BLOCKS), made)
    return made


def test_against_float64(drawn: Request, expected: torch.Tensor) -> None:
    few = 200
    part = Request(*(getattr(drawn, field.name)[:few] for field in dataclasses.fields(Request)))
    assert_rows(expected[:few].flatten(0, 1), part.expected().flatten(0, 1), 2 * BF16_ROUNDING)


@pytest.mark.parametrize("room", [0, 4096], ids=["one-after-the-other", "side-by-side"])
def test_any_chunk_with_any_tiles_in_flight(
    drawn: Request, shape: HeadShape, cache: torch.Tensor, expected: torch.Tensor, room: int
) -> None:
    """Query tiles of 64 rows and of few."""
    depths = (2, 3) if shape.width <= 128 else (2,)  # three tiles of wider heads are more than shared memory
    for stages, warps in itertools.product(depths, (None, 8)):
        for count in (1, 2, 7, 9, 64, 250, LENGTH):
            for start in {0, SPLIT - 1, SPLIT, LENGTH - count}:
                if start + count <= LENGTH:
                    chunk = Chunk(drawn, start, count, BLOCKS)
                    out = attend([chunk], cache, max_split_results=room, stages=stages, warps=warps)
                    assert torch.equal(out[0], expected[start : start + count]), (stages, warps, start, count)


@pytest.mark.parametrize("count", [2, 64, 300])
def test_many_decodes_at_once(drawn: Request, expected: torch.Tensor, cache: torch.Tensor, count: int) -> None:
    """Of one request at many positions: the keys are there already, and each is written as it was."""
    positions = torch.randint(LENGTH, (count,), generator=torch.Generator().manual_seed(count)).tolist()
    out = attend([Chunk(drawn, position, 1, BLOCKS) for position in positions], cache)
    for rows, position in zip(out, positions, strict=True):
        assert torch.equal(rows[0], expected[position]), position


def test_three_hundred_times(drawn: Request, expected: torch.Tensor, cache: torch.Tensor) -> None:
    chunk = Chunk(drawn, LENGTH - 40, 40, BLOCKS)
    for _ in range(300):
        assert torch.equal(attend([chunk], cache)[0], expected[-40:])

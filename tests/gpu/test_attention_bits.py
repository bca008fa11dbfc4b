"""Paged attention at the heads of Qwen3-30B-A3B and of Qwen3.6: right, and the same bits by itself, in chunks, at every depth of the pipeline,
and by any warps."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from cases import QWEN3_6_HEADS, QWEN3_30B_HEADS, HeadShape
from compare import BF16_ROUNDING, assert_rows
from layer import CUDA
from octavo.ops.attention.cuda import KV_TILE, ROWS, SPLIT
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


@pytest.mark.parametrize(("stages", "warps"), [(None, None), (2, 4), (2, 8), (3, 4), (4, 4), (5, 4)])
@pytest.mark.parametrize("room", [0, 4096], ids=["one-after-the-other", "side-by-side"])
def test_any_chunk_at_any_depth(
    drawn: Request, expected: torch.Tensor, cache: torch.Tensor, stages: int | None, warps: int | None, room: int
) -> None:
    if cache.shape[-1] > 128 and stages is not None:
        stages = 2  # more tiles of as wide heads are more than shared memory
    pick = random.Random(room)
    for count in (1, 1, 1, 2, 7, 8, 9, 64, 250, 522, LENGTH):
        for start in {0, SPLIT - 1, SPLIT, 2 * SPLIT, LENGTH - count, pick.randint(0, LENGTH - count)}:
            if start + count <= LENGTH:
                chunk = Chunk(drawn, start, count, BLOCKS)
                out = attend([chunk], cache, max_split_results=room, stages=stages, warps=warps)[0]
                assert torch.equal(out, expected[start : start + count]), (start, count)


@pytest.mark.parametrize("room", [0, 4096], ids=["one-after-the-other", "side-by-side"])
def test_any_chunk_in_any_tiles(drawn: Request, shape: HeadShape, cache: torch.Tensor, room: int) -> None:
    """Query tiles of 64 rows, of 128 and of few give equal bits, at either length of a tile of keys."""
    ways = [(KV_TILE, ROWS, 2), (KV_TILE, 2 * ROWS, 2)]
    if shape.width <= 128:  # more tiles, or longer ones, of wider heads are more than shared memory
        ways += [(KV_TILE, ROWS, 3), (KV_TILE, 2 * ROWS, 4), (2 * KV_TILE, ROWS, 2), (2 * KV_TILE, 2 * ROWS, 3)]
    expected = {keys: whole(drawn, shape, CUDA, keys=keys) for keys in {way[0] for way in ways}}
    for keys, tile_rows, stages in ways:
        for count in (1, 2, 7, 9, 64, 250, LENGTH):
            for start in {0, SPLIT - 1, SPLIT, LENGTH - count}:
                if start + count <= LENGTH:
                    chunk = Chunk(drawn, start, count, BLOCKS)
                    out = attend([chunk], cache, max_split_results=room, tile_rows=tile_rows, keys=keys, stages=stages)
                    assert torch.equal(out[0], expected[keys][start : start + count]), (keys, tile_rows, start, count)


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

"""The persistent kernel of attention has the bits of the others, whatever the batch, the grid and the splits."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable

import pytest
import torch

from cases import HeadShape
from layer import CUDA
from octavo.ops.attention import cuda, persistent
from octavo.ops.attention.cuda import SPLIT, SplitResults, paged_attention, plan_paged_attention
from octavo.ops.attention.plan import KV_TILE, LINE_ROWS
from paged import Chunk, Request, attend, poisoned, write

pytestmark = pytest.mark.gpu
SHAPES = [HeadShape(f"{heads} of {kv}", heads, kv, 128) for heads, kv in ((32, 4), (16, 16), (8, 2), (64, 1))]
LENGTH = 3 * SPLIT + 70
Launches = list[int]


@pytest.fixture(params=SHAPES, ids=lambda shape: shape.name)
def shape(request: pytest.FixtureRequest) -> HeadShape:
    made: HeadShape = request.param
    return made


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    """The lines of each launch of the persistent kernel."""
    made: Launches = []

    def noted(
        queries: torch.Tensor, cache: torch.Tensor, plan: cuda.PagedPlan, *rest: torch.Tensor, scale: float
    ) -> None:
        made.append(len(plan.work))
        persistent.launch_persistent(queries, cache, plan, *rest, scale=scale)

    monkeypatch.setattr(cuda, "launch_persistent", noted)
    return made


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has so many programs go through all items."""

    def choose(count: int) -> None:
        monkeypatch.setattr(persistent, "multiprocessors", lambda _device: count)

    return choose


@functools.cache
def _request(shape: HeadShape) -> Request:
    return Request.draw(LENGTH, shape, seed=1)


def _blocks(length: int, block_size: int, pick: random.Random) -> list[int]:
    return pick.sample(range(-(-LENGTH // block_size) + 3), -(-length // block_size))


@pytest.mark.parametrize(
    ("block_size", "room", "programs"), [(KV_TILE, 0, 132), (KV_TILE, 4096, 7), (2 * KV_TILE, 4096, 1)]
)
def test_any_chunk(
    shape: HeadShape, block_size: int, room: int, programs: int, launches: Launches, few_programs: Callable[[int], None]
) -> None:
    """Splits one after the other and side by side, in blocks of a poisoned cache, of which the last has slots that hold NaN."""
    few_programs(programs)
    request, pick = _request(shape), random.Random(room)
    for start, tokens in (
        (0, 9),
        (0, KV_TILE),
        (0, 130),
        (SPLIT - 30, 161),
        (LENGTH - 50, 50),
        (LENGTH - 700, 700),
        (0, LENGTH),
    ):
        cache = poisoned(-(-LENGTH // block_size) + 3, block_size, shape, CUDA)
        chunk = Chunk(request, start, tokens, _blocks(start + tokens, block_size, pick))
        write(dataclasses.replace(chunk, start=0, count=start + tokens), cache)
        expected = attend([chunk], cache, max_split_results=room, stages=3)[0]
        assert not launches
        out = attend([chunk], cache, max_split_results=room)[0]
        assert torch.equal(out, expected), (start, tokens)
        assert expected.isfinite().all()
        assert bool(launches) is (tokens * shape.heads // shape.kv_heads > 16)
        launches.clear()


@pytest.mark.parametrize("seed", range(6))
def test_any_batch(shape: HeadShape, seed: int, launches: Launches, few_programs: Callable[[int], None]) -> None:
    """Chunks and decodes of many requests, one with NaN."""
    few_programs((132, 5)[seed % 2])
    pick = random.Random(seed)
    chunks, spare = [], list(range(340))
    pick.shuffle(spare)
    cache = poisoned(340, KV_TILE, shape, CUDA)
    for number in range(pick.randint(2, 14)):
        count = pick.choice([1, 1, 3, 16, 17, 64, 200, 600])
        start = pick.choice([0, 1, 63, 64, 511, 512, 900])
        request = Request.draw(start + count, shape, seed=100 * seed + number)
        if number == 1:
            request.keys[start // 2] = torch.nan
        blocks = [spare.pop() for _ in range(-(-(start + count) // KV_TILE))]
        chunks.append(Chunk(request, start, count, blocks))
        write(Chunk(request, 0, start + count, blocks), cache)
    expected = attend(chunks, cache, stages=3)
    assert not launches
    out = attend(chunks, cache)
    assert launches or all(chunk.count * shape.heads // shape.kv_heads <= 16 for chunk in chunks)
    for number, (rows, wanted) in enumerate(zip(out, expected, strict=True)):
        assert torch.equal(rows.nan_to_num(99.0), wanted.nan_to_num(99.0)), number
        assert number == 1 or wanted.isfinite().all()


def _call(
    shape: HeadShape,
    chunks: list[tuple[int, int]],
    change: Callable[[cuda.PagedPlan], cuda.PagedPlan],
    splits: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of chunks (context, tokens), by the persistent kernel with a changed plan, and by the others with the plan as it was."""
    cache, queries, starts = poisoned(200, KV_TILE, shape, CUDA), [], [0]
    tables = torch.full((len(chunks), 40), -1, dtype=torch.int32)
    for row, (context, tokens) in enumerate(chunks):
        request = Request.draw(context, shape, seed=row)
        blocks = list(range(40 * row, 40 * row + -(-context // KV_TILE)))
        write(Chunk(request, 0, context, blocks), cache)
        tables[row, : len(blocks)] = torch.tensor(blocks, dtype=torch.int32)
        queries.append(request.queries[context - tokens :])
        starts.append(starts[-1] + tokens)
    plan = plan_paged_attention(
        tables.to(CUDA), tuple(starts), tuple(context for context, _ in chunks),
        block_size=KV_TILE, heads_per_kv_head=shape.heads // shape.kv_heads, max_split_results=splits,
    )  # fmt: skip
    asked = torch.cat(queries).to(CUDA)
    room = SplitResults.allocate(shape.heads, shape.width, CUDA)
    untouched = torch.full_like(asked, 7.0)
    expected = paged_attention(asked, cache, plan, room, stages=3, out=untouched.clone())
    return paged_attention(asked, cache, change(plan), room, out=untouched), expected


def _fixed(plan: cuda.PagedPlan) -> cuda.PagedPlan:
    """With lines behind those in use."""
    lines = [plan.work, plan.small_work, plan.merges]
    counts = torch.tensor([len(part) for part in lines], dtype=torch.int32, device=CUDA)
    work, small_work, merges = (torch.cat((part, part[:1].repeat(9, 1))) for part in lines)
    return dataclasses.replace(plan, work=work, small_work=small_work, merges=merges, lines_in_use=counts)


def test_a_plan_of_a_fixed_size(shape: HeadShape, launches: Launches) -> None:
    out, expected = _call(shape, [(2000, 700), (1500, 33), (600, 1)], _fixed, splits=4096)
    assert launches
    assert torch.equal(out, expected)


def test_blocks_that_are_not_there(shape: HeadShape, launches: Launches) -> None:
    """Their rows are NaN, and no other's: the first chunk lacks a block that all of its rows see."""

    def spoilt(block: int) -> Callable[[cuda.PagedPlan], cuda.PagedPlan]:
        def change(plan: cuda.PagedPlan) -> cuda.PagedPlan:
            tables = plan.tables.clone()
            tables[0, 2] = block
            return dataclasses.replace(plan, tables=tables)

        return change

    for block in (-1, 200, 2**31 - 1, -(2**31)):
        out, expected = _call(shape, [(1000, 600), (900, 300)], spoilt(block))
        assert launches
        assert out[:600].isnan().all()
        assert torch.equal(out[600:], expected[600:])


def test_lines_that_are_not_sound_are_not_followed(shape: HeadShape, launches: Launches) -> None:
    for column, value in ((0, -1), (0, 2), (1, -1), (1, 900), (1, 2**31 - 1), (3, -1), (4, -1)):

        def change(plan: cuda.PagedPlan, column: int = column, value: int = value) -> cuda.PagedPlan:
            work = plan.work.clone()
            work[0, column] = value
            return dataclasses.replace(plan, work=work)

        out, expected = _call(shape, [(1000, 600), (900, 300)], change)
        assert launches
        untouched = (out == 7.0).flatten(1).all(1)
        tokens = LINE_ROWS // 64 * (64 // (shape.heads // shape.kv_heads))
        assert 0 < int(untouched.sum()) <= tokens
        assert torch.equal(out[~untouched], expected[~untouched])


def test_the_check_sees_one_key_and_one_line(shape: HeadShape, launches: Launches) -> None:
    """Twins: another block in one place; a context said to be longer, so that a NaN in an unused slot is multiplied by zero."""

    def other_block(plan: cuda.PagedPlan) -> cuda.PagedPlan:
        tables = plan.tables.clone()
        tables[0, 3] = tables[0, 4]
        return dataclasses.replace(plan, tables=tables)

    def longer(plan: cuda.PagedPlan) -> cuda.PagedPlan:
        work = plan.work.clone()
        work[:, 7] += KV_TILE
        return dataclasses.replace(plan, work=work)

    for twin in (other_block, longer):
        out, expected = _call(shape, [(1000, 600), (900, 300)], twin)
        assert launches
        assert not torch.equal(out, expected)

"""Paged attention against float64, row by row and bit by bit."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch

from cases import SMALL_HEADS, HeadShape
from compare import BF16_ROUNDING, assert_rows, row_errors
from octavo.errors import KernelContractError
from octavo.ops.attention import cuda
from octavo.ops.attention.cuda import (
    KV_TILE,
    SPLIT,
    SplitResults,
    paged_attention,
    plan_paged_attention,
)
from octavo.ops.attention.plan import FEW_ROWS, LINE_ROWS, ROWS
from octavo.ops.bulk_copy import in_whole_tiles
from paged import Chunk, Request, attend, poisoned, whole, write

NARROW = HeadShape("narrow", 2, 1, 16)
each_shape = pytest.mark.parametrize("shape", SMALL_HEADS, ids=lambda shape: shape.name)


@each_shape
@pytest.mark.parametrize("length", [1, KV_TILE, KV_TILE + 1])
def test_against_float64(shape: HeadShape, length: int, device: torch.device) -> None:
    request = Request.draw(length, shape, seed=1)
    out, expected = whole(request, shape, device), request.expected()
    assert_rows(out.flatten(0, 1), expected.flatten(0, 1), 2 * BF16_ROUNDING)
    # The twin: one value of position 0 moved. Every row sees it; attention is softest where rows are few.
    request.values[0] += 1
    assert row_errors(out.flatten(1), request.expected().flatten(1))[:16].min() > 2 * BF16_ROUNDING


def test_past_a_split_against_float64(device: torch.device) -> None:
    """One key in each split stands out, so that a row without one of them is far off."""
    request = Request.draw(SPLIT + 20, NARROW, seed=2)
    for position in (5, SPLIT + 3):
        request.keys[position] = request.queries[-1].mean(0).sign() * 3
        request.values[position] += 2
    out, expected = whole(request, NARROW, device), request.expected()
    assert_rows(out.flatten(0, 1), expected.flatten(0, 1), 2 * BF16_ROUNDING)
    request.values[SPLIT + 3] -= 2
    assert float(row_errors(out.flatten(1), request.expected().flatten(1))[-1]) > 2 * BF16_ROUNDING


@pytest.mark.parametrize("block_size", [7, 16])
@each_shape
def test_any_chunks_and_blocks(shape: HeadShape, block_size: int, device: torch.device) -> None:
    """Whole, by ones and by drawn chunks, in drawn blocks of a poisoned cache."""
    length = 80
    request = Request.draw(length, shape, seed=3)
    expected = whole(request, shape, device)
    pick = random.Random(block_size)
    for sizes in ([1], [1, 7, 31, 50]):
        blocks = pick.sample(range(200), -(-length // block_size))
        cache = poisoned(200, block_size, shape, device)
        start = 0 if sizes != [1] else length - 2
        if start:
            write(Chunk(request, 0, start, blocks), cache)
        while start < length:
            count = min(pick.choice(sizes), length - start)
            out = attend([Chunk(request, start, count, blocks)], cache)[0]
            assert torch.equal(out, expected[start : start + count])
            start += count


def test_splits_one_after_the_other_and_side_by_side(device: torch.device) -> None:
    """Around the positions where splits begin: as the end of a chunk and by itself, in one program or several."""
    length = 2 * SPLIT + 2
    request = Request.draw(length, NARROW, seed=4)
    blocks = list(range(-(-length // 16)))[::-1]
    cache = poisoned(len(blocks), 16, NARROW, device)
    write(Chunk(request, 0, length, blocks), cache)
    for end in (SPLIT + 1, 2 * SPLIT, length):
        expected = attend([Chunk(request, end - 34, 34, blocks)], cache, max_split_results=0)[0]
        for count in (1, 2):
            for room in (0, 512):
                chunk = Chunk(request, end - count, count, blocks)
                assert torch.equal(attend([chunk], cache, max_split_results=room)[0], expected[-count:])


@pytest.mark.parametrize("block_size", [7, 16, KV_TILE, 2 * KV_TILE])
def test_block_ids_a_tile_ahead(block_size: int, device: torch.device) -> None:
    """Around the ends of tiles and splits, up to the last block of the table, beside which a tile ahead has none."""
    length = SPLIT + 2 * KV_TILE
    request = Request.draw(length, NARROW, seed=11)
    expected = whole(request, NARROW, device)
    blocks = list(range(-(-length // block_size)))[::-1]
    cache = poisoned(len(blocks), block_size, NARROW, device)
    write(Chunk(request, 0, length, blocks), cache)
    for position in (0, KV_TILE - 1, KV_TILE, SPLIT - 1, SPLIT, SPLIT + KV_TILE, length - 1):
        for room in (0, 512):
            chunk = Chunk(request, position, 1, blocks)
            out = attend([chunk], cache, max_split_results=room)[0]
            assert torch.equal(out, expected[position : position + 1]), (position, room)
    # The twin: the first block of the table is another.
    blocks[0] = blocks[-1]
    out = attend([Chunk(request, 3 * KV_TILE, 1, blocks)], cache)[0]
    assert not torch.equal(out, expected[3 * KV_TILE : 3 * KV_TILE + 1])


@pytest.mark.parametrize("block_size", [7, 64, 128])
def test_both_heights_of_query_tiles(block_size: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 64 rows and of few give equal bits, in one program and in several."""
    length = SPLIT + 2 * KV_TILE + 3
    request = Request.draw(length, NARROW, seed=12)
    blocks = list(range(-(-length // block_size)))[::-1]
    cache = poisoned(len(blocks), block_size, NARROW, device)
    chunk = Chunk(request, 0, length, blocks)
    expected = attend([chunk], cache, max_split_results=0)[0]
    assert_rows(expected[-9:].flatten(0, 1), request.expected()[-9:].flatten(0, 1), 2 * BF16_ROUNDING)
    for count in (1, 3, 50):
        for room in (0, 512):
            last = Chunk(request, length - count, count, blocks)
            assert torch.equal(attend([last], cache, max_split_results=room)[0], expected[-count:]), (count, room)
    # The twin: tiles of another length of keys add up in another order.
    monkeypatch.setattr(cuda, "KV_TILE", 2 * KV_TILE)
    assert not torch.equal(attend([chunk], cache)[0], expected)


def test_any_neighbours(device: torch.device) -> None:
    """Decodes, short chunks and long ones together, and a request of NaN among them."""
    shape = NARROW
    lengths, counts = [1, 5, 9, 40, 65, 66, 130, SPLIT + 4], [1, 5, 1, 40, 1, 30, 1, 3]
    requests = [Request.draw(length, shape, seed=length) for length in lengths]
    expected = [whole(request, shape, device) for request in requests]
    requests[3].values[11] = torch.nan
    cache = poisoned(8 * 34, 16, shape, device)
    chunks = []
    for i, (request, count) in enumerate(zip(requests, counts, strict=True)):
        blocks = list(range(34 * i, 34 * i + 34))
        if count < lengths[i]:
            write(Chunk(request, 0, lengths[i] - count, blocks), cache)
        chunks.append(Chunk(request, lengths[i] - count, count, blocks))
    order = [6, 3, 0, 5, 1, 7, 2, 4]
    out = attend([chunks[i] for i in order], cache, columns=40)
    for rows, i in zip(out, order, strict=True):
        if i != 3:
            assert torch.equal(rows, expected[i][lengths[i] - counts[i] :])
    assert torch.equal(out[1][:11], expected[3][:11])
    assert out[1][11:].isnan().all()


def test_the_check_sees_a_split_that_depends_on_the_batch(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin of the tests above: the same rows with splits at other positions have other bits."""
    request = Request.draw(100, NARROW, seed=5)
    expected = whole(request, NARROW, device, max_split_results=0)
    monkeypatch.setattr("octavo.ops.attention.cuda.SPLIT", KV_TILE)
    monkeypatch.setattr("octavo.ops.attention.plan.SPLIT", KV_TILE)
    mutant = whole(request, NARROW, device, max_split_results=0)
    assert torch.equal(mutant[:KV_TILE], expected[:KV_TILE])
    assert not torch.equal(mutant, expected)


@pytest.mark.parametrize("stale", [torch.nan, torch.inf, 3e38], ids=["nan", "inf", "huge"])
@pytest.mark.parametrize("length", [1, 16, 17, 65])
def test_class_e_stale_numbers_in_unused_slots(length: int, stale: float, device: torch.device) -> None:
    """[E] Slots past the context hold anything, block 0 among them; table columns past the last block hold -1."""
    request = Request.draw(length, NARROW, seed=6)
    chunk = Chunk(request, 0, length, list(range(5, 5 + -(-length // 16))))
    dirty, clean = (poisoned(20, 16, NARROW, device).fill_(number) for number in (stale, 0.0))
    assert torch.equal(attend([chunk], dirty, columns=12)[0], attend([chunk], clean, columns=12)[0])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_class_e_a_bad_value_is_seen_by_later_rows_only(bad: float, device: torch.device) -> None:
    """[E] 0 x NaN must not reach the rows before it, in the same tile, nor the heads beside it."""
    shape = HeadShape("pairs", 4, 2, 16)
    request = Request.draw(40, shape, seed=7)
    expected = whole(request, shape, device)
    request.values[21, 1, 3] = bad
    out = whole(request, shape, device)
    assert torch.equal(out[:21], expected[:21])
    assert out[21:, 2:].isnan().all()
    assert torch.equal(out[21:, :2], expected[21:, :2])


def test_class_g_a_context_without_its_blocks_is_nan(device: torch.device) -> None:
    """[G] Block ids that are absent or out of range are not followed, and do not pass for a shorter context."""
    request = Request.draw(40, NARROW, seed=8)
    cache = poisoned(4, 16, NARROW, device)
    write(Chunk(request, 0, 40, [3, 1, 0]), cache)
    for blocks in ([3, -1, 0], [3, 4, 0], [2**31 - 1, 1, 0], [3, -(2**31), 0]):
        tables = torch.tensor([blocks], dtype=torch.int32, device=device)
        plan = plan_paged_attention(tables, (0, 1), (40,), block_size=16, heads_per_kv_head=2)
        out = paged_attention(request.queries[-1:].to(device), cache, plan, SplitResults.allocate(2, 16, device))
        assert in_whole_tiles(out.flatten(1), 64).shape == (64, 32), "a product reads it in whole tiles"
        assert out.isnan().all()
    short = plan_paged_attention(tables[:, :1].contiguous(), (0, 1), (40,), block_size=16, heads_per_kv_head=2)
    assert (
        paged_attention(request.queries[-1:].to(device), cache, short, SplitResults.allocate(2, 16, device))
        .isnan()
        .all()
    )


def test_no_tokens(device: torch.device) -> None:
    cache = poisoned(2, 16, NARROW, device)
    tables = torch.empty((0, 4), dtype=torch.int32, device=device)
    plan = plan_paged_attention(tables, (0,), (), block_size=16, heads_per_kv_head=2)
    empty = torch.empty((0, 2, 16), dtype=torch.bfloat16, device=device)
    assert paged_attention(empty, cache, plan, SplitResults.allocate(2, 16, device)).shape == (0, 2, 16)


def test_a_plan_of_a_fixed_size(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer programs than lines of work, behind which lie others that must not run: the same bits."""
    for name in ("LARGE", "SMALL"):
        few = dataclasses.replace(getattr(cuda, name), resident=3)
        monkeypatch.setattr(cuda, name, few)
    monkeypatch.setattr("octavo.ops.attention.cuda.RESIDENT_MERGES", 3)
    request = Request.draw(SPLIT + 40, NARROW, seed=9)
    blocks = list(range(40))
    cache = poisoned(40, 16, NARROW, device)
    write(Chunk(request, 0, len(request), blocks), cache)
    queries = torch.cat((request.queries[-66:], request.queries[:6])).to(device)
    tables = torch.tensor([blocks], dtype=torch.int32, device=device)
    plan = plan_paged_attention(tables, (0, 66), (len(request),), block_size=16, heads_per_kv_head=2)
    assert len(plan.work) == len(plan.small_work) == 2
    assert len(plan.merges) == 66
    split_results = SplitResults.allocate(2, 16, device)
    untouched = torch.full_like(queries, torch.nan)
    expected = paged_attention(queries, cache, plan, split_results, out=untouched.clone())
    assert expected[66:].isnan().all()
    strays = {
        "work": torch.tensor([[0, 66, 3, 5, 0, 1, -1, 8]] * 9, dtype=torch.int32, device=device),
        "small_work": torch.tensor([[0, 69, 3, 5, 0, 1, -1, 8]] * 9, dtype=torch.int32, device=device),
        "merges": torch.tensor([[row, 0, 1, 1] for row in range(66)], dtype=torch.int32, device=device),
    }
    for wrong in (None, *strays):
        lines = {name: torch.cat((getattr(plan, name), stray)) for name, stray in strays.items()}
        counts = [len(lines[name] if name == wrong else getattr(plan, name)) for name in strays]
        in_use = torch.tensor(counts, dtype=torch.int32, device=device)
        fixed = dataclasses.replace(
            plan, work=lines["work"], small_work=lines["small_work"], merges=lines["merges"], lines_in_use=in_use
        )
        out = paged_attention(queries, cache, fixed, split_results, out=untouched.clone())
        same = torch.equal(out.nan_to_num(99.0), expected.nan_to_num(99.0))
        # The twins: with the lines counted that should not be.
        assert same is (wrong is None)


@pytest.mark.parametrize("seed", range(20), ids=lambda seed: f"draw{seed}")
def test_a_plan_covers_every_row_and_split_once(seed: int) -> None:
    """Each (row, split) of a drawn batch is in one line of work; split results are distinct and merged in order."""
    pick = random.Random(seed)
    counts = [pick.choice([1, 1, 2, 8, 9, 100, 700]) for _ in range(pick.randint(1, 12))]
    contexts = tuple(count + pick.choice([0, 3, 511, 512, 3000]) for count in counts)
    starts = tuple(np.cumsum([0, *counts]).tolist())
    room = pick.choice([0, 50, 4096])
    shared = pick.choice([1, 3, 8, 64])
    plan = plan_paged_attention(
        torch.zeros((len(counts), 300), dtype=torch.int32), starts, contexts,
        block_size=16, heads_per_kv_head=shared, max_split_results=room,
    )  # fmt: skip
    assert plan.num_split_results <= room
    seen: dict[tuple[int, int], int] = {}
    assert (plan.work[:, 2] * shared > FEW_ROWS).all()
    assert (plan.small_work[:, 2] * shared <= FEW_ROWS).all()
    for chunk, row, tokens, position, first, end, partial, context in (*plan.work.tolist(), *plan.small_work.tolist()):
        assert starts[chunk] <= row
        assert context == contexts[chunk]
        assert tokens <= LINE_ROWS // ROWS * (ROWS // shared)
        assert row + tokens <= starts[chunk + 1]
        assert position == contexts[chunk] - counts[chunk] + row - starts[chunk]
        for token in range(tokens):
            for split in range(first, end):
                assert (row + token, split) not in seen
                seen[row + token, split] = partial + token if partial >= 0 else -1
    merged = {row: [first + i * step for i in range(count)] for row, first, step, count in plan.merges.tolist()}
    for i, count in enumerate(counts):
        for token in range(count):
            row, splits = starts[i] + token, -(-(contexts[i] - count + token + 1) // SPLIT)
            found = [seen[row, split] for split in range(splits)]
            assert found == merged.get(row, [-1] * splits)[:splits]
    split_results = [p for p in seen.values() if p >= 0]
    assert len(split_results) == len(set(split_results)) == plan.num_split_results


@pytest.mark.parametrize("shared", [1, 8, 64])
@pytest.mark.parametrize("longest", [SPLIT, SPLIT + 1])
def test_short_decodes_have_the_plan_of_any_chunks(shared: int, longest: int) -> None:
    """The way that is taken for them, and the one that they take beside a chunk of two rows; and where one is longer than a split."""
    contexts = (1, 200, longest, 63, 200, 64)
    tables = torch.zeros((7, 40), dtype=torch.int32)
    alone, beside = (
        plan_paged_attention(
            tables, starts, (*contexts, *more), block_size=16, heads_per_kv_head=shared, max_split_results=4096
        )
        for starts, more in ((tuple(range(7)), ()), ((*range(7), 8), (2,)))
    )
    for got, among in ((alone.work, beside.work), (alone.small_work, beside.small_work)):
        of_decodes = among[among[:, 0] < 6]
        assert torch.equal(got, of_decodes)
    assert torch.equal(alone.merges, beside.merges)
    assert (len(alone.merges) > 0) is (longest > SPLIT)


def test_as_many_rows_as_chunks_are_not_one_row_each() -> None:
    """A chunk without rows, beside which another has two, takes none of them."""
    tables = torch.zeros((2, 5), dtype=torch.int32)
    plan = plan_paged_attention(tables, (0, 2, 2), (7, 7), block_size=16, heads_per_kv_head=2)
    assert plan.small_work.tolist() == [[0, 0, 2, 5, 0, 1, -1, 7]]


def test_contract(device: torch.device) -> None:
    request = Request.draw(3, NARROW, seed=10)
    cache = poisoned(2, 16, NARROW, device)
    tables = torch.zeros((1, 2), dtype=torch.int32, device=device)
    with pytest.raises(KernelContractError, match="heads_per_kv_head"):
        plan_paged_attention(tables, (0, 3), (3,), block_size=16, heads_per_kv_head=65)
    plan = plan_paged_attention(tables, (0, 1), (3000,), block_size=16, heads_per_kv_head=2)
    with pytest.raises(KernelContractError, match=r"^cache"):
        paged_attention(
            request.queries[:1].to(device), cache.view(2, 4, 8, 1, 16), plan, SplitResults.allocate(2, 16, device)
        )
    with pytest.raises(KernelContractError, match="queries: expected"):
        paged_attention(
            request.queries.to(device)[:, :1].contiguous(), cache, plan, SplitResults.allocate(2, 16, device)
        )
    with pytest.raises(KernelContractError, match="num_split_results"):
        paged_attention(request.queries[:1].to(device), cache, plan, SplitResults.allocate(2, 16, device, count=5))

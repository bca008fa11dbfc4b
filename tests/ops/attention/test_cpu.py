"""Attention of PyTorch operations against float64, row by row and bit by bit."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable

import pytest
import torch
from benchmarks.torch_baseline.attention import attention
from benchmarks.torch_baseline.attention_plan import KV_TILE, TilePlan, plan_attention

from compare import BF16_ROUNDING, assert_rows, row_errors
from octavo.errors import KernelContractError
from octavo.ops.attention import CpuAttentionPlan, cpu_attention, plan_cpu_attention, write_kv
from octavo.ops.attention.reference import attention_reference

HEADS = [(4, 2, 16), (8, 1, 24), (6, 2, 32), (3, 3, 8), (40, 1, 16)]
EDGES = [1, 2, KV_TILE - 1, KV_TILE, KV_TILE + 1, 300]


Planner = Callable[..., TilePlan | CpuAttentionPlan]


@pytest.fixture(params=[plan_attention, plan_cpu_attention], ids=["any-device", "cpu"])
def planner(request: pytest.FixtureRequest) -> Planner:
    """Of both implementations; what holds for one holds for the other."""
    plan: Planner = request.param
    return plan


@dataclasses.dataclass
class Request:
    """The queries, keys and values of all positions of a request."""

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor

    @classmethod
    def draw(cls, length: int, heads: int, kv_heads: int, width: int, seed: int) -> Request:
        noise = torch.Generator().manual_seed(seed)
        sizes = (heads, kv_heads, kv_heads)
        return cls(*(torch.randn((length, size, width), generator=noise).bfloat16() for size in sizes))


def run(
    chunks: list[tuple[Request, int, int, list[int]]],
    cache: torch.Tensor,
    planner: Planner,
    *,
    columns: int | None = None,
) -> list[torch.Tensor]:
    """Write and attend (request, start, count, blocks) as one batch; the rows of each chunk."""
    block_size = cache.shape[2]
    columns = columns or max(len(blocks) for *_, blocks in chunks)
    tables = torch.full((len(chunks), columns), -1, dtype=torch.int32)
    starts, slots, parts = [0], [], []
    for row, (request, start, count, blocks) in enumerate(chunks):
        tables[row, : len(blocks)] = torch.tensor(blocks, dtype=torch.int32)
        slots += [blocks[p // block_size] * block_size + p % block_size for p in range(start, start + count)]
        parts.append([side[start : start + count] for side in (request.queries, request.keys, request.values)])
        starts.append(starts[-1] + count)
    queries, keys, values = (torch.cat(side) for side in zip(*parts, strict=True))
    contexts = tuple(start + count for _, start, count, _ in chunks)
    shared = queries.shape[1] // keys.shape[1]
    plan = planner(tables, tuple(starts), contexts, block_size=block_size, heads_per_kv_head=shared)
    write_kv(keys, values, cache, torch.tensor(slots))
    out = cpu_attention(queries, cache, plan) if isinstance(plan, CpuAttentionPlan) else attention(queries, cache, plan)
    return [out[begin:end] for begin, end in itertools.pairwise(starts)]


def poisoned(num_blocks: int, block_size: int, kv_heads: int, width: int) -> torch.Tensor:
    return torch.full((2, num_blocks, block_size, kv_heads, width), torch.nan, dtype=torch.bfloat16)


def whole(request: Request, planner: Planner, block_size: int = 16) -> torch.Tensor:
    blocks = list(range(-(-len(request.keys) // block_size)))
    cache = poisoned(len(blocks), block_size, *request.keys.shape[1:])
    return run([(request, 0, len(request.keys), blocks)], cache, planner)[0]


@pytest.mark.parametrize("length", EDGES)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_against_float64(planner: Planner, heads: tuple[int, int, int], length: int) -> None:
    request = Request.draw(length, *heads, seed=1)
    expected = attention_reference(request.queries, request.keys, request.values)
    out = whole(request, planner)
    assert_rows(out.flatten(0, 1), expected.flatten(0, 1), BF16_ROUNDING)
    # The twin: one value of position 0 moved. Every row sees it; attention is softest where rows are few.
    request.values[0] += 1
    mutant = attention_reference(request.queries, request.keys, request.values)
    assert row_errors(out.flatten(1), mutant.flatten(1))[: KV_TILE // 4].min() > BF16_ROUNDING


@pytest.mark.parametrize("block_size", [1, 7, 16, 64, 200])
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_any_chunks_and_blocks(planner: Planner, heads: tuple[int, int, int], block_size: int) -> None:
    """Whole, by ones, and by drawn chunks, in drawn blocks of a poisoned cache."""
    length = 290
    request = Request.draw(length, *heads, seed=2)
    expected = whole(request, planner)
    pick = random.Random(block_size)
    for sizes in ([1], [8], [9], [1, 2, 7, 8, 31, 64, 100]):
        blocks = pick.sample(range(400), -(-length // block_size))
        cache = poisoned(400, block_size, *heads[1:])
        start = 0 if sizes != [1] else length - 3
        if start:
            run([(request, 0, start, blocks)], cache, planner)
        while start < length:
            count = min(pick.choice(sizes), length - start)
            out = run([(request, start, count, blocks)], cache, planner)[0]
            assert torch.equal(out, expected[start : start + count])
            start += count


@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_any_neighbours(planner: Planner, heads: tuple[int, int, int]) -> None:
    """Decodes, short chunks and long ones together, and a request of NaN among them."""
    lengths = [1, 5, 9, 40, 129, 130, 257, 300]
    requests = [Request.draw(length, *heads, seed=length) for length in lengths]
    expected = [whole(request, planner) for request in requests]
    requests[3].values[11] = torch.nan
    cache = poisoned(8 * 20, 16, *heads[1:])
    counts = [1, 5, 1, 40, 1, 60, 1, 3]
    chunks = []
    for i, (request, count) in enumerate(zip(requests, counts, strict=True)):
        blocks = list(range(20 * i, 20 * i + 20))
        if count < lengths[i]:
            run([(request, 0, lengths[i] - count, blocks)], cache, planner)
        chunks.append((request, lengths[i] - count, count, blocks))
    order = [6, 3, 0, 5, 1, 7, 2, 4]
    out = run([chunks[i] for i in order], cache, planner, columns=30)
    for rows, i in zip(out, order, strict=True):
        if i != 3:
            assert torch.equal(rows, expected[i][lengths[i] - counts[i] :])
    assert torch.equal(out[1][:11], expected[3][:11])
    assert out[1][11:].isnan().all()


@pytest.mark.parametrize("side", ["keys", "values", "both"])
@pytest.mark.parametrize("stale", [torch.nan, torch.inf, 3e38], ids=["nan", "inf", "huge"])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 127, 128, 129])
def test_class_e_stale_numbers_in_unused_slots(planner: Planner, length: int, stale: float, side: str) -> None:
    """[E] Slots past the context hold anything, block 0 among them; table columns past the last block hold -1."""
    request = Request.draw(length, 4, 2, 16, seed=3)
    blocks = list(range(5, 5 + -(-length // 16)))
    clean = torch.zeros((2, 20, 16, 2, 16), dtype=torch.bfloat16)
    dirty = clean.clone()
    for index in {"keys": [0], "values": [1], "both": [0, 1]}[side]:
        dirty[index] = stale
    chunk = (request, 0, length, blocks)
    assert torch.equal(run([chunk], dirty, planner, columns=12)[0], run([chunk], clean, planner, columns=12)[0])


def test_class_e_a_bad_value_is_seen_by_later_rows_only(planner: Planner) -> None:
    """[E] 0 x NaN must not reach the rows before it, in the same tile, whatever the chunking."""
    request = Request.draw(40, 4, 2, 16, seed=4)
    expected = whole(request, planner)
    request.values[21, 1, 3] = torch.inf
    out = whole(request, planner)
    assert torch.equal(out[:21], expected[:21])
    assert out[21:, 2:].isnan().all()
    assert torch.equal(out[21:, :2], expected[21:, :2])


def test_class_g_block_table_edges(planner: Planner) -> None:
    """[G] A request that fills its block table to the last column, and one block less one token."""
    for length in (63, 64):
        request = Request.draw(length, 4, 2, 16, seed=5)
        cache = poisoned(4, 16, 2, 16)
        out = run([(request, 0, length, [3, 1, 0, 2])], cache, planner, columns=4)[0]
        assert torch.equal(out, whole(request, planner))


def test_class_a_blocks_past_32_bit_offsets(planner: Planner) -> None:
    """[A] The highest blocks of a cache of more than 2^31 elements give the bits that the lowest give."""
    block_elements = 16 * 2 * 64
    num_blocks = 2**31 // block_elements // 2 + 8
    cache = torch.empty((2, num_blocks, 16, 2, 64), dtype=torch.bfloat16)
    assert cache.numel() > 2**31
    request = Request.draw(40, 4, 2, 64, seed=6)
    low = run([(request, 0, 40, [0, 1, 2])], cache, planner)[0]
    high = run([(request, 0, 40, [num_blocks - 1, num_blocks - 2, num_blocks - 3])], cache, planner)[0]
    assert torch.equal(low, high)


@pytest.mark.parametrize("heads", [(4, 2, 16), (8, 2, 32), (1, 1, 8), (40, 1, 16)], ids=str)
def test_a_query_by_itself_and_in_every_chunk_past_a_key_block(heads: tuple[int, int, int]) -> None:
    """PyTorch's kernel cuts keys at 512: positions around every band up to 1100, alone and in chunks."""
    request = Request.draw(1100, *heads, seed=8)
    expected = whole(request, plan_cpu_attention)
    cache = poisoned(80, 16, *heads[1:])
    blocks = list(range(79, 79 - -(-1100 // 16), -1))
    run([(request, 0, 1100, blocks)], cache, plan_cpu_attention)
    for start in [0, 31, 511, 512, 513, 640, 767, 1023, 1024, 1099]:
        for count in (1, 2, 33, 129):
            end = min(1100, start + count)
            out = run([(request, start, end - start, blocks)], cache, plan_cpu_attention)[0]
            assert torch.equal(out, expected[start:end])


@pytest.mark.parametrize("huge", [2.0**60, 3e38])
def test_huge_keys_are_not_finite(huge: float) -> None:
    """From the position of the key on, in the heads that read it; a huge query is NaN by itself."""
    request = Request.draw(200, 4, 2, 16, seed=9)
    expected = whole(request, plan_cpu_attention)
    request.keys[150, 0, 3] = -huge
    request.queries[20, 3, 1] = huge
    out = whole(request, plan_cpu_attention)
    good = torch.ones((200, 4), dtype=torch.bool)
    good[150:, :2] = False
    good[20, 3] = False
    assert torch.equal(out[good], expected[good])
    assert out[150:, :2].isnan().all()
    assert out[20, 3].isnan().all()


def test_contract() -> None:
    request = Request.draw(3, 4, 2, 16, seed=7)
    cache = poisoned(2, 16, 2, 16)
    with pytest.raises(KernelContractError, match="keys: expected"):
        write_kv(request.keys[..., :8], request.values, cache, torch.tensor([0, 1, 2]))
    with pytest.raises(KernelContractError, match=r"slot_mapping.*int64"):
        write_kv(request.keys, request.values, cache, torch.tensor([0, 1, 2], dtype=torch.int32))
    with pytest.raises(IndexError, match="out of"):
        write_kv(request.keys, request.values, cache, torch.tensor([0, 1, 32]))
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        write_kv(request.keys, request.values, cache, torch.tensor([0, 1, -1]))

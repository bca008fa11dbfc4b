"""Keys and values in FP8: the same codes from every device and from a table, and attention over them, row by row and bit by bit."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from cases import SMALL_HEADS, HeadShape
from compare import BF16_ROUNDING, assert_rows, row_errors
from octavo.errors import KernelContractError
from octavo.ops.activations import FP8
from octavo.ops.attention import cpu_attention, plan_cpu_attention
from octavo.ops.attention.cache import KvScales, write_kv
from octavo.ops.attention.cuda import SplitResults, paged_attention, plan_paged_attention
from octavo.ops.attention.reference import attention_reference
from octavo.ops.prepare_qkv.cpu import cpu_prepare_qkv
from octavo.ops.prepare_qkv.cuda import prepare_qkv
from octavo.ops.quantize.reference import static_reference
from octavo.ops.quantize.rule import static_codes
from octavo.ops.rotary import RotaryTable
from paged import Request

PAIRS = HeadShape("pairs", 4, 2, 16)
NARROW = HeadShape("narrow", 2, 1, 16)
SCALES = KvScales(0.03125 * 1.3, 0.75)
"""No powers of two: a scale in the wrong place is another number."""


def every_number() -> torch.Tensor:
    """All 65,536 numbers of bf16."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


def unturned(tokens: int, width: int) -> RotaryTable:
    """Angles of zero: keys as they come."""
    return RotaryTable(torch.ones((tokens, width // 2)), torch.zeros((tokens, width // 2)))


def as_cached(request: Request, scales: KvScales) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values in float64 as the cache gives them back, by the reference."""
    sides = ((request.keys, scales.keys), (request.values, scales.values))
    keys, values = (static_reference(x, torch.tensor(scale)).double() * scale for x, scale in sides)
    return keys, values


@dataclasses.dataclass(frozen=True)
class Backend:
    """What writes keys and values, and what attends, on one kind of device."""

    name: str
    device: torch.device

    def write(
        self, request: Request, part: slice, slots: list[int], cache: torch.Tensor, scales: KvScales = SCALES
    ) -> None:
        sides = (request.queries[part], request.keys[part], request.values[part])
        qkv, angles = torch.cat(sides, dim=1), unturned(len(sides[0]), request.keys.shape[2])
        places = torch.tensor(slots)
        if self.name == "cpu":
            cpu_prepare_qkv(qkv, None, angles, cache, places, scales)
            return
        angles = RotaryTable(angles.cos.to(self.device), angles.sin.to(self.device))
        prepare_qkv(qkv.to(self.device), None, angles, cache, places.to(self.device), scales)

    def attend(
        self,
        queries: torch.Tensor,
        cache: torch.Tensor,
        tables: torch.Tensor,
        starts: tuple[int, ...],
        ends: tuple[int, ...],
        scales: KvScales = SCALES,
    ) -> torch.Tensor:
        sizes = {"block_size": cache.shape[2], "heads_per_kv_head": queries.shape[1] // cache.shape[3]}
        if self.name == "cpu":
            return cpu_attention(queries, cache, plan_cpu_attention(tables, starts, ends, **sizes), scales)
        plan = plan_paged_attention(tables.to(self.device), starts, ends, **sizes)
        room = SplitResults.allocate(queries.shape[1], queries.shape[2], self.device)
        return paged_attention(queries.to(self.device), cache, plan, room, scales).cpu()

    def cache(self, num_blocks: int, block_size: int, shape: HeadShape) -> torch.Tensor:
        """Codes of NaN: what is not written must not be seen."""
        size = (2, num_blocks, block_size, shape.kv_heads, shape.width)
        return torch.full(size, 0x7F, dtype=torch.uint8, device=self.device).view(FP8)

    def run(self, chunks: list[tuple[Request, int, int, list[int]]], cache: torch.Tensor) -> list[torch.Tensor]:
        """Write and attend (request, start, count, blocks) as one batch; the rows of each chunk."""
        block_size = cache.shape[2]
        tables = torch.full((len(chunks), max(len(blocks) for *_, blocks in chunks) + 2), -1, dtype=torch.int32)
        starts = [0]
        for row, (request, start, count, blocks) in enumerate(chunks):
            tables[row, : len(blocks)] = torch.tensor(blocks, dtype=torch.int32)
            places = range(start, start + count)
            slots = [blocks[p // block_size] * block_size + p % block_size for p in places]
            self.write(request, slice(start, start + count), slots, cache)
            starts.append(starts[-1] + count)
        queries = torch.cat([request.queries[start : start + count] for request, start, count, _ in chunks])
        ends = tuple(start + count for _, start, count, _ in chunks)
        out = self.attend(queries, cache, tables, tuple(starts), ends)
        return list(out.split([count for *_, count, _ in chunks]))

    def whole(self, request: Request, shape: HeadShape) -> torch.Tensor:
        blocks = list(range(-(-len(request) // 16)))
        return self.run([(request, 0, len(request), blocks)], self.cache(len(blocks), 16, shape))[0]


@pytest.fixture(params=["cpu", "kernels"])
def backend(request: pytest.FixtureRequest, device: torch.device) -> Backend:
    return Backend(request.param, torch.device("cpu") if request.param == "cpu" else device)


@pytest.mark.parametrize("scale", [1.0, 2.0**-9, 0.0123, 3.7, 1e-30, 1e30], ids=str)
def test_every_number_has_the_code_that_the_table_says(scale: float, backend: Backend) -> None:
    """Values of all of bf16: CPU, kernel and reference to the bit; what is not finite is seen by its key being NaN."""
    numbers = every_number().view(256, 2, 128)
    shape = HeadShape("all", 2, 2, 128)
    keys = torch.ones((256, 2, 128), dtype=torch.bfloat16)
    cache = backend.cache(16, 16, shape)
    scales = KvScales(1.0, scale)
    backend.write(Request(keys, keys, numbers), slice(None), list(range(256)), cache, scales)
    got_keys, got = (side.flatten(0, 1).cpu().view(torch.uint8) for side in cache)
    expected = static_reference(numbers, torch.tensor(scale)).view(torch.uint8)
    finite = numbers.isfinite()
    assert torch.equal(got[finite], expected[finite])
    sound = finite.all(-1)
    assert not sound.all()
    assert (got_keys[~sound] == 0x7F).all()
    assert torch.equal(got_keys[sound], torch.full_like(got_keys[sound], 0x38))
    assert torch.equal(static_codes(numbers, torch.tensor(scale)).view(torch.uint8), expected)
    # the twin: codes that are cut, not rounded
    cut = (numbers.float() / scale).view(torch.int32).bitwise_and(~0xFFFFF).view(torch.float32).clamp(-448, 448)
    assert not torch.equal(cut.to(FP8).view(torch.uint8)[finite], expected[finite])


def test_the_ends_of_the_format() -> None:
    """Saturated as the device's conversion does; NaN and infinity are NaN, so that no bad number passes for a good one."""
    x = torch.tensor([448.0, 449.0, 464.0, 1e30, -1e30, torch.inf, -torch.inf, torch.nan, -0.0, 2.0**-10, 2.0**-9])
    codes = static_codes(x, torch.ones(1)).view(torch.uint8).tolist()
    assert codes == [0x7E, 0x7E, 0x7E, 0x7E, 0xFE, 0x7F, 0x7F, 0x7F, 0x80, 0x00, 0x01]
    assert codes == static_reference(x, torch.ones(1)).view(torch.uint8).tolist()


def test_both_devices_write_the_same_cache(device: torch.device) -> None:
    request = Request.draw(20, PAIRS, seed=1)
    request.keys[3, 0, 2], request.values[7, 1, 4] = torch.inf, 1e30
    caches = []
    for one in (Backend("cpu", torch.device("cpu")), Backend("kernels", device)):
        cache = one.cache(3, 8, PAIRS)
        one.write(request, slice(None), list(range(20)), cache)
        caches.append(cache.cpu().view(torch.uint8))
    assert torch.equal(*caches)
    assert caches[0].view(2, 24, 2, 16)[0, 3, 0, 2] == 0x7F


@pytest.mark.parametrize("length", [1, 64, 65])
@pytest.mark.parametrize("shape", SMALL_HEADS, ids=lambda shape: shape.name)
def test_against_float64(shape: HeadShape, length: int, backend: Backend) -> None:
    request = Request.draw(length, shape, seed=2)
    out = backend.whole(request, shape)
    keys, values = as_cached(request, SCALES)
    expected = attention_reference(request.queries, keys, values)
    assert_rows(out.flatten(0, 1), expected.flatten(0, 1), 2 * BF16_ROUNDING)
    # The twins: values that were not rounded to codes, and the scale of values left out.
    unrounded = attention_reference(request.queries, request.keys, request.values)
    assert row_errors(out.flatten(1), unrounded.flatten(1)).min() > 2 * BF16_ROUNDING
    unscaled = attention_reference(request.queries, keys, values / SCALES.values)
    assert row_errors(out.flatten(1), unscaled.flatten(1)).min() > 2 * BF16_ROUNDING


def test_past_a_split_against_float64(backend: Backend) -> None:
    """One key in each split stands out; the rows of a split go through the second kernel on a device."""
    request = Request.draw(530, NARROW, seed=3)
    for position in (5, 515):
        request.keys[position] = request.queries[-1].mean(0).sign() * 3
        request.values[position] += 2
    blocks = list(range(34))
    cache = backend.cache(34, 16, NARROW)
    backend.run([(request, 0, 528, blocks)], cache)
    out = backend.run([(request, 528, 2, blocks)], cache)[0]
    keys, values = as_cached(request, SCALES)
    expected = attention_reference(request.queries[-2:], keys, values)
    assert_rows(out.flatten(0, 1), expected.flatten(0, 1), 2 * BF16_ROUNDING)
    assert float(row_errors(out.flatten(1), expected.flatten(1) / SCALES.values).min()) > 2 * BF16_ROUNDING


@pytest.mark.parametrize("block_size", [1, 7, 16, 64])
def test_any_chunks_and_blocks(block_size: int, backend: Backend) -> None:
    """Whole, by ones and by drawn chunks, in drawn blocks of a poisoned cache."""
    length = 80
    request = Request.draw(length, PAIRS, seed=4)
    expected = backend.whole(request, PAIRS)
    pick = random.Random(block_size)
    for sizes in ([1], [1, 7, 31, 50]):
        blocks = pick.sample(range(200), -(-length // block_size))
        cache = backend.cache(200, block_size, PAIRS)
        start = 0 if sizes != [1] else length - 2
        if start:
            backend.run([(request, 0, start, blocks)], cache)
        while start < length:
            count = min(pick.choice(sizes), length - start)
            out = backend.run([(request, start, count, blocks)], cache)[0]
            assert torch.equal(out, expected[start : start + count])
            start += count


def test_any_neighbours(backend: Backend) -> None:
    """Decodes and chunks together, and a request of NaN among them."""
    lengths, counts = [1, 5, 40, 65, 66], [1, 1, 40, 1, 30]
    requests = [Request.draw(length, PAIRS, seed=length) for length in lengths]
    expected = [backend.whole(request, PAIRS) for request in requests]
    requests[2].values[11] = torch.nan
    cache = backend.cache(5 * 5, 16, PAIRS)
    chunks = []
    for i, (request, count) in enumerate(zip(requests, counts, strict=True)):
        blocks = list(range(5 * i, 5 * i + 5))
        if count < lengths[i]:
            backend.run([(request, 0, lengths[i] - count, blocks)], cache)
        chunks.append((request, lengths[i] - count, count, blocks))
    order = [3, 2, 0, 4, 1]
    for rows, i in zip(backend.run([chunks[i] for i in order], cache), order, strict=True):
        good = rows[:11] if i == 2 else rows
        at = lengths[i] - counts[i]
        assert torch.equal(good, expected[i][at : at + len(good)])
        assert i != 2 or rows[11:].isnan().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("side", ["keys", "values"])
def test_class_e_a_bad_number_is_seen_by_later_rows_only(side: str, bad: float, backend: Backend) -> None:
    """[E] It must reach no row before it, nor the heads beside it; infinity is not held within 448 and forgotten."""
    request = Request.draw(40, PAIRS, seed=5)
    expected = backend.whole(request, PAIRS)
    getattr(request, side)[21, 1, 3] = bad
    out = backend.whole(request, PAIRS)
    assert torch.equal(out[:21], expected[:21])
    assert out[21:, 2:].isnan().all()
    assert torch.equal(out[21:, :2], expected[21:, :2])


@pytest.mark.parametrize("stale", [0x7F, 0xFF, 0x7E], ids=["nan", "minus-nan", "huge"])
@pytest.mark.parametrize("length", [1, 17, 65])
def test_class_e_stale_codes_in_unused_slots(length: int, stale: int, backend: Backend) -> None:
    """[E] Slots past the context hold anything, block 0 among them; table columns past the last block hold -1."""
    request = Request.draw(length, PAIRS, seed=6)
    chunk = (request, 0, length, list(range(5, 5 + -(-length // 16))))
    dirty, clean = backend.cache(20, 16, PAIRS), backend.cache(20, 16, PAIRS)
    dirty.view(torch.uint8).fill_(stale)
    clean.view(torch.uint8).zero_()
    assert torch.equal(backend.run([chunk], dirty)[0], backend.run([chunk], clean)[0])


def test_a_scale_of_one_changes_nothing_of_numbers_that_fp8_has(backend: Backend) -> None:
    """Keys and values that are codes already: the bits of a cache in bf16."""
    request = Request.draw(70, PAIRS, seed=7)
    exact = [static_codes(side, torch.ones(1)).to(torch.bfloat16) for side in (request.keys, request.values)]
    request = Request(request.queries, *exact)
    slots, tables = list(range(70)), torch.arange(5, dtype=torch.int32)[None]
    outs = []
    for cache in (backend.cache(5, 16, PAIRS), backend.cache(5, 16, PAIRS).to(torch.bfloat16)):
        backend.write(request, slice(None), slots, cache, KvScales())
        outs.append(backend.attend(request.queries, cache, tables, (0, 70), (70,), KvScales()))
    assert torch.equal(*outs)


def test_contract() -> None:
    request = Request.draw(3, PAIRS, seed=8)
    cache = torch.zeros((2, 2, 16, 2, 16)).to(torch.float8_e5m2)
    with pytest.raises(KernelContractError, match=r"cache.*float8_e4m3fn"):
        write_kv(request.keys, request.values, cache, torch.tensor([0, 1, 2]))

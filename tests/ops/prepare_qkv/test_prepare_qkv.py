"""Norm, rotation and cache writes against float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cases import SMALL_HEADS, HeadShape
from compare import BF16_ROUNDING, assert_rows, row_errors
from memory import Guard
from octavo.config.rope import Rope
from octavo.errors import KernelContractError
from octavo.ops.prepare_qkv import HeadNorms
from octavo.ops.prepare_qkv.cpu import cpu_prepare_qkv
from octavo.ops.prepare_qkv.cuda import TILE_ROWS, prepare_qkv
from octavo.ops.prepare_qkv.reference import prepare_qkv_reference
from octavo.ops.rotary import RotaryTable
from ops.prepare_qkv.quotients import quotients_kernel

EPS = 1e-6
LIMIT = 3 * BF16_ROUNDING
"""Three roundings, of which the reference makes two: now and then to the other side."""


@dataclasses.dataclass
class Case:
    """Arguments on the host."""

    shape: HeadShape
    qkv: torch.Tensor
    norms: HeadNorms | None
    rows: RotaryTable
    gated: bool = False

    @classmethod
    def draw(cls, tokens: int, shape: HeadShape, seed: int, *, normed: bool = True, width: int | None = None) -> Case:
        noise = torch.Generator().manual_seed(seed)
        qkv = torch.randn((tokens, shape.heads + 2 * shape.kv_heads, shape.width), generator=noise) * 3
        weights = (torch.randn((2, shape.width), generator=noise) * 0.1 + 1).bfloat16()
        positions = torch.randint(0, 1000, (tokens,), generator=noise)
        table = RotaryTable.make(1000, Rope(10000.0, width or shape.width), torch.device("cpu")).at(positions)
        return cls(shape, qkv.bfloat16(), HeadNorms(weights[0], weights[1], EPS) if normed else None, table)

    def expected(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return prepare_qkv_reference(self.qkv, self.norms, self.rows, self.shape.kv_heads)

    def run(
        self, slots: list[int], device: torch.device, tile_rows: int = TILE_ROWS
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries, and the cache (2, 8 x 4 slots, G, D), NaN where nothing was written."""
        guard = Guard(device)
        cache = guard.empty((2, 8, 4, self.shape.kv_heads, self.shape.width), torch.bfloat16)
        qkv, rows = guard.copy(self.qkv), guard.rebuild_copy(self.rows)
        norms = guard.rebuild_copy(self.norms) if self.norms is not None else None
        places = torch.tensor(slots, dtype=torch.int64, device=device)
        queries = prepare_qkv(qkv, norms, rows, cache, places, gated=self.gated, tile_rows=tile_rows)
        guard.check()
        return queries.cpu(), cache.cpu().flatten(1, 2)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.int16), b.view(torch.int16))


@pytest.mark.parametrize("normed", [True, False], ids=["normed", "rotated"])
@pytest.mark.parametrize("shape", SMALL_HEADS, ids=lambda shape: shape.name)
def test_against_float64(shape: HeadShape, normed: bool, device: torch.device) -> None:
    case = Case.draw(5, shape, seed=1, normed=normed)
    slots = [3, 31, 0, 17, 8]
    queries, cache = case.run(slots, device)
    expected = case.expected()
    assert_rows(queries.flatten(0, 1), expected[0].flatten(0, 1), LIMIT)
    assert_rows(cache[0, slots].flatten(0, 1), expected[1].flatten(0, 1), LIMIT)
    assert torch.equal(cache[1, slots].double(), expected[2])
    untouched = [slot for slot in range(32) if slot not in slots]
    assert cache[:, untouched].isnan().all()
    # Twins: other norms, the next position, another slot.
    ones = torch.ones(shape.width).bfloat16()
    other = Case.draw(5, shape, seed=2).norms if normed else HeadNorms(ones, ones, EPS)
    swapped = dataclasses.replace(case, norms=other).expected()
    assert row_errors(queries.flatten(0, 1), swapped[0].flatten(0, 1)).min() > LIMIT
    shifted = dataclasses.replace(case, rows=RotaryTable(case.rows.cos.roll(1, 0), case.rows.sin.roll(1, 0))).expected()
    assert row_errors(cache[0, slots].flatten(0, 1), shifted[1].flatten(0, 1)).min() > LIMIT


@pytest.mark.parametrize("normed", [True, False], ids=["normed", "rotated"])
@pytest.mark.parametrize("shape", SMALL_HEADS, ids=lambda shape: shape.name)
def test_a_part_of_each_head(shape: HeadShape, normed: bool, device: torch.device) -> None:
    """Also where what is not turned is wider than what is, or has other bits than bf16 would keep of a product with 1."""
    slots = [3, 31, 0, 17, 8]
    for width in sorted({2, 2 * (shape.width // 4), shape.width - 2} - {0}):
        case = Case.draw(5, shape, seed=1, normed=normed, width=width)
        queries, cache = case.run(slots, device)
        expected = case.expected()
        assert_rows(queries.flatten(0, 1), expected[0].flatten(0, 1), LIMIT)
        assert_rows(cache[0, slots].flatten(0, 1), expected[1].flatten(0, 1), LIMIT)
        assert torch.equal(cache[1, slots].double(), expected[2])
        assert torch.equal(queries[..., width:].double(), expected[0][..., width:]) or normed
        mirror = torch.empty_like(cache)
        on_cpu = cpu_prepare_qkv(case.qkv, case.norms, case.rows, mirror[:, None], torch.tensor(slots))
        assert_rows(queries.flatten(0, 1), on_cpu.flatten(0, 1), LIMIT)
        assert_rows(cache[0, slots].flatten(0, 1), mirror[0, slots].flatten(0, 1), LIMIT)


@pytest.mark.parametrize("shape", SMALL_HEADS, ids=lambda shape: shape.name)
def test_gates_behind_query_heads_are_not_read(shape: HeadShape, device: torch.device) -> None:
    """NaN where they stand; the bits are those without."""
    case, slots = Case.draw(5, shape, seed=1), [3, 31, 0, 17, 8]
    queries, cache = case.run(slots, device)
    heads = shape.heads
    with_gates = torch.full((5, 2 * (heads + shape.kv_heads), shape.width), torch.nan).bfloat16()
    with_gates[:, : 2 * heads : 2], with_gates[:, 2 * heads :] = case.qkv[:, :heads], case.qkv[:, heads:]
    gated = dataclasses.replace(case, qkv=with_gates, gated=True)
    found = gated.run(slots, device)
    assert same_bits(found[0], queries)
    assert same_bits(found[1], cache)
    other = gated.run([*slots[1:], slots[0]], device)
    assert not same_bits(other[1], cache), "the twin: other slots"


@pytest.mark.parametrize("shape", SMALL_HEADS, ids=lambda shape: shape.name)
def test_norms_in_float32(shape: HeadShape, device: torch.device) -> None:
    """Rounded once, on both back ends; the same weights in bf16 give others."""
    case, slots = Case.draw(5, shape, seed=1), [3, 31, 0, 17, 8]
    assert case.norms is not None
    queries, keys = (1 + (part.float() - 1) * 0.1 for part in (case.norms.queries, case.norms.keys))
    case.norms = HeadNorms(queries, keys, EPS)
    queries, cache = case.run(slots, device)
    expected = case.expected()
    assert_rows(queries.flatten(0, 1), expected[0].flatten(0, 1), LIMIT)
    assert_rows(cache[0, slots].flatten(0, 1), expected[1].flatten(0, 1), LIMIT)
    mirror = torch.empty_like(cache)
    on_cpu = cpu_prepare_qkv(case.qkv, case.norms, case.rows, mirror[:, None], torch.tensor(slots))
    assert_rows(queries.flatten(0, 1), on_cpu.flatten(0, 1), LIMIT)
    case.norms = HeadNorms(case.norms.queries.bfloat16(), case.norms.keys.bfloat16(), EPS)
    assert not torch.equal(case.run(slots, device)[0], queries)


def test_a_row_alone_and_among_others(device: torch.device) -> None:
    case = Case.draw(9, SMALL_HEADS[0], seed=2)
    queries, cache = case.run(list(range(9)), device)
    for row in (0, 4, 8):
        part = slice(row, row + 1)
        one = dataclasses.replace(case, qkv=case.qkv[part], rows=RotaryTable(case.rows.cos[part], case.rows.sin[part]))
        alone, written = one.run([20], device)
        assert torch.equal(alone[0], queries[row])
        assert torch.equal(written[:, 20], cache[:, row])


@pytest.mark.parametrize("shape", SMALL_HEADS, ids=lambda shape: shape.name)
def test_any_tile(shape: HeadShape, device: torch.device) -> None:
    case = Case.draw(7, shape, seed=7)
    queries, cache = case.run(list(range(7)), device)
    for tile_rows in (1, 2, 64):
        other, written = case.run(list(range(7)), device, tile_rows=tile_rows)
        assert torch.equal(other, queries)
        assert torch.equal(written[:, :7], cache[:, :7])


def quotients(x: torch.Tensor, root: torch.Tensor, device: torch.device, *, corrected: bool = True) -> torch.Tensor:
    """x / root as the kernel has it, in bf16; or without its correction."""
    size = 1 << 15
    count = len(x)
    x, root = (torch.cat((t, t.new_ones(-count % size))).to(device) for t in (x, root))
    out = torch.empty_like(x, dtype=torch.bfloat16)
    quotients_kernel[(len(x) // size,)](x, root, out, CORRECTED=corrected, SIZE=size)
    return out[:count].cpu()


def test_a_quotient_is_rounded_as_a_division_is(device: torch.device) -> None:
    """All mantissas of x, and for each the roots next to where the quotient passes a bf16 or the middle of two.

    Elsewhere a last bit of float32 more or less changes nothing.
    """
    mantissas = torch.arange(128, 256, dtype=torch.float64) / 128
    edges = torch.arange(256, 512, dtype=torch.float64) / 256
    nearest = (mantissas[:, None, None] / (edges[:, None] * torch.tensor([1.0, 0.5]))).float()
    steps = torch.arange(-6, 7, dtype=torch.int32)
    root = (nearest.view(torch.int32)[..., None] + steps).view(torch.float32)
    x = mantissas.float()[:, None, None, None].expand_as(root)
    root, x = root.flatten(), x.flatten()
    expected = (x / root).bfloat16()
    assert same_bits(quotients(x, root, device), expected)
    assert same_bits(quotients(-x, root, device), -expected)
    # the twin
    assert not same_bits(quotients(x, root, device, corrected=False), expected)


def test_a_quotient_of_zeros_and_what_is_not_finite(device: torch.device) -> None:
    inf, nan = torch.inf, torch.nan
    x = torch.tensor([0.0, -0.0, 1.0, -1.0, inf, nan, 0.0])
    root = torch.tensor([2.0, 2.0, inf, inf, inf, nan, nan])
    got, expected = quotients(x, root, device), (x / root).bfloat16()
    assert same_bits(got[:4], expected[:4])
    assert got[4:].isnan().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_class_e_a_bad_value_becomes_zero_and_its_key_nan(bad: float, device: torch.device) -> None:
    case = Case.draw(4, HeadShape("pairs", 4, 2, 16), seed=3)
    queries, cache = case.run([0, 1, 2, 3], device)
    case.qkv[2, 4 + 2 + 1, 9] = bad
    after, dirty = case.run([0, 1, 2, 3], device)
    assert torch.equal(after, queries)
    assert dirty[0, 2, 1].isnan().all()
    assert dirty[1, 2, 1, 9] == 0
    dirty[0, 2, 1], dirty[1, 2, 1, 9] = cache[0, 2, 1], cache[1, 2, 1, 9]
    assert same_bits(dirty[:, :4], cache[:, :4])


def test_class_g_slots_out_of_range_are_dropped(device: torch.device) -> None:
    case = Case.draw(4, SMALL_HEADS[1], seed=4)
    _, cache = case.run([-1, 32, 31, 2**40], device)
    assert cache[:, :31].isnan().all()
    assert not cache[:, 31].isnan().any()


def test_no_tokens(device: torch.device) -> None:
    queries, cache = Case.draw(0, SMALL_HEADS[0], seed=5).run([], device)
    assert queries.shape == (0, 8, 128)
    assert cache.isnan().all()


def test_contract(device: torch.device) -> None:
    case = Case.draw(3, SMALL_HEADS[0], seed=6)
    with pytest.raises(KernelContractError, match=r"slot_mapping.*T=3"):
        case.run([0, 1], device)
    with pytest.raises(KernelContractError, match="qkv"):
        dataclasses.replace(case, qkv=case.qkv[:, :2].contiguous()).run([0, 1, 2], device)

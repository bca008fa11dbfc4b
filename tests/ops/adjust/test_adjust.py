"""Penalties and masks against Python's numbers, on both back ends, and a row's bits in any company."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from octavo.errors import KernelContractError
from octavo.ops.adjust import IN_PROMPT, AdjustSettings, adjust
from octavo.ops.adjust.cpu import cpu_adjust
from octavo.ops.adjust.cuda import SEGMENT, cuda_adjust
from octavo.ops.adjust.reference import adjust_reference

WIDTHS = [1, 23, SEGMENT - 1, SEGMENT + 9]
PENALTIES = [(1.0, 0.0, 0.0), (1.3, 0.7, -0.4), (0.1, -2.0, 2.0), (5e-324, 0.0, 0.0), (1e300, 2.0, 2.0)]
SLOTS = 3
ROWS = 8
BACK_ENDS: list[Callable[..., torch.Tensor]] = [cpu_adjust, cuda_adjust, adjust]


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows of logits, the counts of three slots, and what each row takes of them."""

    logits: torch.Tensor
    counts: torch.Tensor
    rows: list[tuple[float, float, float, int]]
    allowed: list[set[int] | None]

    @classmethod
    def draw(cls, width: int) -> Case:
        """Signs, zeros and the largest numbers there are; rows with both, with one, and with nothing to do."""
        pick, noise = random.Random(width), torch.Generator().manual_seed(width)
        logits = 8 * torch.randn((ROWS, width), generator=noise)
        logits[:, :: 3 if width > 3 else 1] = torch.tensor([0.0, -3e38, 3e38, -torch.inf]).repeat(2)[:, None]
        counts = torch.randint(0, 4, (SLOTS, width), generator=noise, dtype=torch.int32)
        counts += IN_PROMPT * torch.randint(0, 2, (SLOTS, width), generator=noise, dtype=torch.int32)
        counts[0] = 0
        rows = [(*PENALTIES[row % len(PENALTIES)], row % (SLOTS + 1) - 1) for row in range(ROWS)]
        sets = [None if row % 3 == 0 else {pick.randrange(width) for _ in range(width)} for row in range(ROWS)]
        return cls(logits, counts, rows, sets)

    def bits(self) -> list[bytes | None]:
        """The allowed ids as the settings take them."""
        size = -(-self.logits.shape[1] // 8)
        return [None if ids is None else sum(1 << i for i in ids).to_bytes(size, "little") for ids in self.allowed]

    def expected(self) -> torch.Tensor:
        made = []
        for logits, row, allowed in zip(self.logits.tolist(), self.rows, self.allowed, strict=True):
            repetition, frequency, presence, slot = row
            times = [(bool(c & IN_PROMPT), c & (IN_PROMPT - 1)) for c in self.counts[slot].tolist()]
            times = times if slot >= 0 else [(False, 0)] * len(logits)
            made.append(adjust_reference(logits, times, repetition, frequency, presence, allowed))
        return torch.tensor(made)

    def run(
        self, function: Callable[..., torch.Tensor], device: torch.device, rows: slice = slice(None)
    ) -> torch.Tensor:
        """What `function` makes of some rows."""
        settings = AdjustSettings.of(self.rows[rows], self.bits()[rows], self.logits.shape[1], device)
        logits = self.logits[rows].to(device)
        return function(logits, self.counts.to(device), settings, out=torch.full_like(logits, torch.nan)).cpu()


@pytest.mark.parametrize("width", WIDTHS)
def test_both_back_ends_give_what_the_reference_gives(width: int, device: torch.device) -> None:
    case = Case.draw(width)
    expected = case.expected()
    assert not torch.equal(expected, case.logits)
    for function in BACK_ENDS:
        on = torch.device("cpu") if function is cpu_adjust else device
        assert torch.equal(case.run(function, on), expected)
        for row in range(ROWS):
            assert torch.equal(case.run(function, on, slice(row, row + 1)), expected[row : row + 1])


@pytest.mark.parametrize("function", BACK_ENDS[:2])
def test_a_wrong_count_penalty_or_bit_is_seen(function: Callable[..., torch.Tensor], device: torch.device) -> None:
    """The twins, each of one row."""
    case = Case.draw(23)
    on, expected = torch.device("cpu") if function is cpu_adjust else device, case.expected()
    counts = case.counts.clone()
    counts[1, 4] += 1
    rows = [(*row[:2], row[2] + 0.5, row[3]) if index == 2 else row for index, row in enumerate(case.rows)]
    allowed = [{0, 1} if index == 1 else ids for index, ids in enumerate(case.allowed)]
    twins = [{"counts": counts}, {"rows": rows}, {"allowed": allowed}]
    for changed in twins:
        twin = dataclasses.replace(case, **changed)  # type: ignore[arg-type]
        assert not torch.equal(twin.run(function, on), expected)


@pytest.mark.parametrize("function", BACK_ENDS[:2])
def test_a_slot_or_mask_that_there_is_not_does_nothing(
    function: Callable[..., torch.Tensor], device: torch.device
) -> None:
    case = Case.draw(23)
    on = torch.device("cpu") if function is cpu_adjust else device
    settings = AdjustSettings.of(case.rows, case.bits(), 23, on)
    wild = torch.tensor([ROWS, -7, 2**31 - 1, -(2**31)] * 2, dtype=torch.int32, device=on)
    logits, wild_settings = case.logits.to(on, copy=True), dataclasses.replace(settings, slots=wild, allowed_rows=wild)
    assert function(logits, case.counts.to(on), wild_settings, out=logits) is logits
    assert torch.equal(logits.cpu(), case.logits)


@pytest.mark.parametrize("function", BACK_ENDS[:2])
def test_rows_without_a_slot_are_the_same_beside_one_that_has_one(
    function: Callable[..., torch.Tensor], device: torch.device
) -> None:
    """Where no row has one, no penalties are taken to the device."""
    case = Case.draw(23)
    on = torch.device("cpu") if function is cpu_adjust else device
    rows = [(repetition, frequency, presence, -1) for repetition, frequency, presence, _ in case.rows]
    logits, counts, bits = case.logits.to(on), case.counts.to(on), case.bits()
    alone, beside = (
        function(
            logits[: len(told)],
            counts,
            AdjustSettings.of(told, bits[: len(told)], 23, on),
            out=torch.empty_like(logits[: len(told)]),
        )
        for told in (rows[:-1], [*rows[:-1], (1.5, 0.5, 0.5, 0)])
    )
    assert torch.equal(alone, beside[:-1])
    assert not torch.equal(alone, logits[:-1]), "some are masked"


@pytest.mark.parametrize("function", BACK_ENDS[:2])
def test_a_row_that_is_not_finite_harms_no_other(function: Callable[..., torch.Tensor], device: torch.device) -> None:
    case = Case.draw(40)
    on, expected = torch.device("cpu") if function is cpu_adjust else device, case.expected()
    case.logits[2], case.logits[5, 3] = torch.nan, torch.inf
    good = [row for row in range(ROWS) if row not in (2, 5)]
    assert torch.equal(case.run(function, on)[good], expected[good])


@pytest.mark.parametrize("function", BACK_ENDS[:2])
def test_contract(function: Callable[..., torch.Tensor], device: torch.device) -> None:
    case = Case.draw(23)
    on = torch.device("cpu") if function is cpu_adjust else device
    logits, counts = case.logits.to(on), case.counts.to(on)
    settings = AdjustSettings.of(case.rows, case.bits(), 23, on)
    for name, wrong in {
        "penalties": settings.penalties.float(),
        "slots": settings.slots[1:],
        "allowed": settings.allowed[:, 1:].contiguous(),
        "allowed_rows": settings.allowed_rows.long(),
    }.items():
        with pytest.raises(KernelContractError, match=name):
            function(logits, counts, dataclasses.replace(settings, **{name: wrong}), out=logits)
    with pytest.raises(KernelContractError, match="counts"):
        function(logits, counts[:, 1:].contiguous(), settings, out=logits)
    with pytest.raises(KernelContractError, match="logits"):
        function(logits.double(), counts, settings, out=logits)
    with pytest.raises(KernelContractError, match="out"):
        function(logits, counts, settings, out=logits[1:])
    none = AdjustSettings.of([], [], 23, on)
    assert function(logits[:0], counts, none, out=logits[:0]).shape == (0, 23)
    assert torch.equal(logits.cpu(), case.logits)


class Operations(TorchDispatchMode):
    """Counts PyTorch's."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_cpu_takes_no_more_operations_for_many_rows_than_for_few() -> None:
    """On a small vocabulary each operation costs more than what it does."""
    counts = []
    for rows in (2, 64):
        settings = AdjustSettings.of(
            [(1.1, 0.5, 0.5, row % SLOTS) for row in range(rows)], [b"\xff\xff\x01"] * rows, 17, torch.device("cpu")
        )
        logits, times = torch.randn(rows, 17), torch.ones((SLOTS, 17), dtype=torch.int32)
        with Operations() as operations:  # type: ignore[no-untyped-call]
            cpu_adjust(logits, times, settings, out=logits)
        counts.append(operations.count)
    assert counts[0] == counts[1]

"""The draw by whole masses against Python's numbers, on both back ends, and a row's bits in any company."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from octavo.errors import KernelContractError
from octavo.ops.draw import DrawSettings, draw, draw_truncated
from octavo.ops.draw.cpu import cpu_draw, cpu_draw_truncated
from octavo.ops.draw.cuda import FEWEST, SEGMENT, cuda_draw, cuda_draw_truncated, draw_sorted
from octavo.ops.draw.reference import draw_reference, draw_truncated_reference
from octavo.ops.draw.select import select
from octavo.ops.largest import largest

WIDTHS = [1, 23, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT + 700]
ROWS = 12


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows of logits and how each is drawn."""

    logits: torch.Tensor
    settings: DrawSettings

    @classmethod
    def draw(cls, width: int, device: torch.device, rows: int = ROWS) -> Case:
        """Logits with many equal ones and some that cannot be drawn; settings of all kinds; numbers from end to end."""
        noise = torch.Generator().manual_seed(width)
        logits = torch.randint(-8, 9, (rows, width), generator=noise) / 2
        logits[torch.rand((rows, width), generator=noise) < 0.2] = -torch.inf
        logits[:, width // 2] = 4.0
        logits[0], logits[1] = 1.0, torch.randn(width, generator=noise)
        kinds = (
            [0.05, 0.7, 1.0, 2.0],
            [0.0, 0.05, 1.0],
            [0, 1, 5, width - 1, width, width + 7, 0],
            [0.9, 1.0, 0.3, 1e-9, 0.999],
        )
        columns = [torch.tensor(kind)[torch.arange(rows) % len(kind)].double() for kind in kinds]
        numbers = torch.rand(rows, generator=noise, dtype=torch.float64)
        numbers[0], numbers[1] = 0.0, 1.0 - 2.0**-53
        return cls(logits.float().to(device), DrawSettings(torch.stack([*columns, numbers]).to(device)))

    def changed(self, **places: torch.Tensor | float) -> Case:
        """The same with other settings; by name."""
        values = self.settings.values.clone()
        for name, new in places.items():
            values[("temperature", "min_p", "top_k", "top_p", "number").index(name)] = new
        return Case(self.logits, DrawSettings(values))

    def row(self, index: int) -> Case:
        """One row alone."""
        return Case(
            self.logits[index : index + 1], DrawSettings(self.settings.values[:, index : index + 1].contiguous())
        )

    def on_host(self) -> Case:
        return Case(self.logits.cpu(), DrawSettings(self.settings.values.cpu()))

    def expected(self) -> list[int]:
        """From all ids."""
        temperature, min_p, _, _, numbers = self.settings.values.tolist()
        return [draw_reference(*row) for row in zip(self.logits.cpu(), temperature, min_p, numbers, strict=True)]

    def expected_truncated(self) -> list[int]:
        """From the likeliest."""
        rows = zip(self.logits.cpu(), *self.settings.values.tolist(), strict=True)
        return [draw_truncated_reference(*row) for row in rows]


@pytest.mark.parametrize("width", WIDTHS)
def test_both_back_ends_give_what_the_reference_gives(width: int, device: torch.device) -> None:
    case = Case.draw(width, device)
    host, expected = case.on_host(), case.expected()
    assert cpu_draw(host.logits, host.settings).tolist() == expected
    assert cuda_draw(case.logits, case.settings).tolist() == expected
    assert draw(case.logits, case.settings).tolist() == expected
    # the twins: one id that takes all the mass, at one end and at the other
    for end in (0, width - 1):
        moved = case.logits.clone()
        moved[:, end] = 200.0
        assert cuda_draw(moved, case.settings).tolist() == [end] * ROWS
    flipped = case.changed(number=case.settings.values[4].flip(0))
    assert width == 1 or cuda_draw(flipped.logits, flipped.settings).tolist() != expected


@pytest.mark.parametrize(("width", "room"), [(1, 1), (23, 4096), (23, 5), (SEGMENT + 1, 4096), (SEGMENT + 700, 64)])
def test_the_likeliest_are_drawn_from_without_a_sort_as_with_one(width: int, room: int, device: torch.device) -> None:
    """However many of a bin's ids find room beside the logits."""
    case = Case.draw(width, device)
    host, expected = case.on_host(), case.expected_truncated()
    assert cpu_draw_truncated(host.logits, host.settings, most=0).tolist() == expected
    assert select(case.logits, case.settings, room=room).tolist() == expected
    unbounded = case.changed(top_k=0)
    free = dataclasses.replace(unbounded.settings, has_top_k=False)
    found = select(case.logits, free, case.logits.amax(-1), room=room).tolist()
    assert found == unbounded.expected_truncated()
    assert draw_truncated(case.logits, case.settings, most=0).tolist() == expected
    # the twins: another top_k, another top_p, another number
    twins = (case.changed(top_k=1), case.changed(top_p=1e-9), case.changed(number=case.settings.values[4].flip(0)))
    for other in twins if width < SEGMENT else ():
        assert select(other.logits, other.settings, room=room).tolist() == other.expected_truncated()
        assert width == 1 or other.expected_truncated() != expected


@pytest.mark.parametrize("top_k", [1, 3, 20, 64])
def test_a_short_top_k_is_drawn_from_the_largest(top_k: int, device: torch.device) -> None:
    """Both ways of a device, and a row that allows fewer ids than it asks for."""
    case = Case.draw(FEWEST, device, rows=5).changed(top_k=top_k)
    case.logits[4] = -torch.inf
    case.logits[4, [7, 1000]] = torch.tensor([1.0, 2.0], device=device)
    host, expected = case.on_host(), case.expected_truncated()
    assert cpu_draw_truncated(host.logits, host.settings, most=top_k).tolist() == expected
    assert draw_sorted(case.logits, largest(case.logits, top_k), case.settings).tolist() == expected
    assert cuda_draw_truncated(case.logits, case.settings, most=top_k).tolist() == expected
    assert top_k != 20 or select(case.logits, case.settings).tolist() == expected


def test_an_id_without_mass_is_never_drawn(device: torch.device) -> None:
    """Every segment but one is without mass, and in that one every id but two."""
    logits = torch.full((16, 3 * SEGMENT), -torch.inf, device=device)
    allowed = [SEGMENT + 5, SEGMENT + 1000]
    logits[:, allowed] = torch.tensor([0.0, -3.0], device=device)
    numbers = torch.linspace(0, 1 - 2.0**-53, 16, dtype=torch.float64).tolist()
    for top_k, top_p in ((0, 1.0), (50, 0.999), (3, 1.0)):
        settings = DrawSettings.of([(1.0, 0.0, top_k, top_p, number) for number in numbers], device)
        assert set(cuda_draw(logits, settings).tolist()) == set(allowed)
        assert set(select(logits, settings).tolist()) == set(allowed)


def test_a_row_has_the_same_bits_alone_and_beside_rows_that_are_not_finite(device: torch.device) -> None:
    for function, width in ((cuda_draw, SEGMENT + 300), (select, 70)):
        case = Case.draw(width, device)
        logits = case.logits.clone()
        logits[3], logits[5, 7], logits[7] = torch.nan, torch.inf, -torch.inf
        good = [row for row in range(ROWS) if row not in (3, 5, 7)]
        expected = function(case.logits, case.settings)
        for row in range(ROWS):
            alone = case.row(row)
            assert function(alone.logits, alone.settings).equal(expected[row : row + 1])
        beside = function(logits, case.settings)
        assert ((beside >= 0) & (beside < logits.shape[1])).all()
        assert beside[good].equal(expected[good])


def test_contract(device: torch.device) -> None:
    case = Case.draw(40, device)
    values = case.settings.values
    for function in (cpu_draw, cuda_draw, select, lambda *args: cpu_draw_truncated(*args, most=0)):
        for wrong in (values.float(), values[:, 1:].contiguous(), values[:4]):
            with pytest.raises(KernelContractError, match="settings"):
                function(case.logits, DrawSettings(wrong))
        with pytest.raises(KernelContractError, match="logits"):
            function(case.logits.double(), case.settings)
    with pytest.raises(KernelContractError, match="ids"):
        draw_sorted(case.logits, torch.zeros((ROWS, 65), dtype=torch.int64, device=device), case.settings)
    none = DrawSettings(values[:, :0].contiguous())
    assert cuda_draw(case.logits[:0], none).shape == select(case.logits[:0], none).shape == (0,)

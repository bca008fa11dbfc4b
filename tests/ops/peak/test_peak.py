"""The peak of rows against Python's numbers, on both back ends: ties, rows of one number, and numbers that cannot be used."""

from __future__ import annotations

import math

import pytest
import torch

from octavo.errors import KernelContractError
from octavo.ops.peak import Peak, peak
from octavo.ops.peak.cpu import cpu_peak
from octavo.ops.peak.cuda import MAX_ALONE, SEGMENT, cuda_peak
from octavo.ops.peak.reference import peak_reference

BACK_ENDS = [cpu_peak, cuda_peak, peak]
WIDTHS = [1, 7, 300, MAX_ALONE, MAX_ALONE + 1, 5 * SEGMENT]
each_type = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def draw(width: int, levels: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Rows of whole numbers, of which few levels make many equal; one whose half is -inf, one that is nothing else, one of both zeros."""
    values = torch.randint(-levels, levels + 1, (6, width), generator=torch.Generator().manual_seed(width)).float()
    values[1, : width // 2] = -torch.inf
    values[2] = -torch.inf
    values[3, -1] = levels
    values[4] = torch.where(torch.arange(width) % 2 == 0, -0.0, 0.0)
    values[5, width // 3] = torch.inf
    return values.to(dtype).to(device)


def told(found: Peak) -> list[tuple[bool, float, int]]:
    assert found.column is not None
    assert (found.finite.dtype, found.highest.dtype, found.column.dtype) == (torch.bool, torch.float32, torch.int64)
    return list(zip(found.finite.tolist(), found.highest.tolist(), found.column.tolist(), strict=True))


@each_type
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("levels", [1, 200], ids=lambda levels: f"{levels}-levels")
def test_all_back_ends_find_what_python_finds(
    width: int, levels: int, dtype: torch.dtype, device: torch.device
) -> None:
    rows = draw(width, levels, dtype, device)
    expected = peak_reference(rows)
    for find in BACK_ENDS:
        assert told(find(rows)) == expected
    # the twin: the place that was found is the least of the row now
    rows[0, expected[0][2]] = -300
    assert width == 1 or told(cuda_peak(rows))[0][2] != expected[0][2]


@each_type
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("width", [2, 33, MAX_ALONE + 5])
def test_every_place_is_looked_at(width: int, value: float, dtype: torch.dtype, device: torch.device) -> None:
    for place in {0, 1, width // 2, width - 2, width - 1}:
        rows = torch.full((3, width), -1.0, dtype=dtype, device=device)
        rows[:, width // 2] = torch.finfo(dtype).max
        rows[1, place] = value
        for find in BACK_ENDS:
            found = find(rows)
            assert found.finite.tolist() == [True, False, True]
            assert found.highest.isnan().tolist() == [False, math.isnan(value), False]
            assert found.column is not None
            assert found.column[[0, 2]].tolist() == [width // 2] * 2
            assert 0 <= int(found.column[1]) < width


def test_a_row_of_nothing_but_nan_has_a_column(device: torch.device) -> None:
    for width in WIDTHS:
        found = cuda_peak(torch.full((2, width), torch.nan, device=device))
        assert found.column is not None
        assert ((found.column >= 0) & (found.column < width)).all()


def test_what_nobody_asks_for_costs_a_cpu_nothing() -> None:
    assert peak(torch.zeros((2, 3)), find=False).column is None


def test_contract(device: torch.device) -> None:
    rows = draw(300, 5, torch.float32, device)
    for wrong in (rows.double(), rows[:, ::2], rows[0]):
        with pytest.raises(KernelContractError, match="rows"):
            cuda_peak(wrong)
    with pytest.raises(KernelContractError, match=r"rows\.shape\[1\]"):
        cuda_peak(rows[:, :0].contiguous())
    assert cuda_peak(rows[:0]).column is not None

"""The draw by whole masses against Python's numbers, on both back ends, and a row's bits in any company."""

from __future__ import annotations

import pytest
import torch

from octavo.errors import KernelContractError
from octavo.ops.draw import draw
from octavo.ops.draw.cpu import cpu_draw
from octavo.ops.draw.cuda import SEGMENT, cuda_draw
from octavo.ops.draw.reference import draw_reference

WIDTHS = [1, 23, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT + 700]
ROWS = 12


def draw_case(width: int, device: torch.device, rows: int = ROWS) -> tuple[torch.Tensor, ...]:
    """Logits with many equal ones and some that cannot be drawn; settings of all kinds; numbers from end to end."""
    noise = torch.Generator().manual_seed(width)
    logits = torch.randint(-8, 9, (rows, width), generator=noise) / 2
    logits[torch.rand((rows, width), generator=noise) < 0.2] = -torch.inf
    logits[:, width // 2] = 4.0
    temperature = torch.tensor([0.05, 0.7, 1.0, 2.0])[torch.arange(rows) % 4].double()
    min_p = torch.tensor([0.0, 0.05, 1.0])[torch.arange(rows) % 3].double()
    numbers = torch.rand(rows, generator=noise, dtype=torch.float64)
    numbers[0], numbers[1] = 0.0, 1.0 - 2.0**-53
    return tuple(tensor.to(device) for tensor in (logits.float(), temperature, min_p, numbers))


@pytest.mark.parametrize("width", WIDTHS)
def test_both_back_ends_give_what_the_reference_gives(width: int, device: torch.device) -> None:
    case = draw_case(width, device)
    host = [tensor.cpu() for tensor in case]
    logits, *columns = host
    expected = [draw_reference(row, *map(float, settings)) for row, *settings in zip(logits, *columns, strict=True)]
    assert cpu_draw(*host).tolist() == expected
    assert cuda_draw(*case).tolist() == expected
    assert draw(*case).tolist() == expected
    # the twins: one id that takes all the mass, at one end and at the other
    for end in (0, width - 1):
        moved = case[0].clone()
        moved[:, end] = 200.0
        assert cuda_draw(moved, *case[1:]).tolist() == [end] * ROWS
    assert width == 1 or cuda_draw(case[0], case[1], case[2], case[3].flip(0)).tolist() != expected


def test_an_id_without_mass_is_never_drawn(device: torch.device) -> None:
    """Every segment but one is without mass, and in that one every id but two."""
    logits = torch.full((64, 3 * SEGMENT), -torch.inf, device=device)
    allowed = [SEGMENT + 5, SEGMENT + 1000]
    logits[:, allowed] = torch.tensor([0.0, -3.0], device=device)
    ones = torch.ones(64, dtype=torch.float64, device=device)
    numbers = torch.linspace(0, 1 - 2.0**-53, 64, dtype=torch.float64, device=device)
    assert set(cuda_draw(logits, ones, 0 * ones, numbers).tolist()) == set(allowed)


def test_a_row_has_the_same_bits_alone_and_beside_rows_that_are_not_finite(device: torch.device) -> None:
    case = draw_case(SEGMENT + 300, device)
    expected = cuda_draw(*case)
    for row in range(ROWS):
        assert cuda_draw(*(tensor[row : row + 1] for tensor in case)).equal(expected[row : row + 1])
    logits = case[0].clone()
    logits[3], logits[5, 7], logits[7] = torch.nan, torch.inf, -torch.inf
    beside = cuda_draw(logits, *case[1:])
    assert ((beside >= 0) & (beside < logits.shape[1])).all()
    good = [row for row in range(ROWS) if row not in (3, 5, 7)]
    assert beside[good].equal(expected[good])


def test_contract(device: torch.device) -> None:
    logits, temperature, min_p, numbers = draw_case(40, device)
    for function in (cpu_draw, cuda_draw):
        with pytest.raises(KernelContractError, match="temperature"):
            function(logits, temperature.float(), min_p, numbers)
        with pytest.raises(KernelContractError, match="numbers"):
            function(logits, temperature, min_p, numbers[1:])
        with pytest.raises(KernelContractError, match="logits"):
            function(logits.double(), temperature, min_p, numbers)
    none = (logits[:0], temperature[:0], min_p[:0], numbers[:0])
    assert cuda_draw(*none).shape == (0,)

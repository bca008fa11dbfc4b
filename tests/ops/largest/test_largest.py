"""The largest numbers of rows against Python's sort, on both back ends, ties and all."""

from __future__ import annotations

import pytest
import torch

from octavo.errors import KernelContractError
from octavo.ops.largest import MAX_FEW, largest
from octavo.ops.largest.cpu import GROUP, cpu_largest
from octavo.ops.largest.cuda import cuda_largest
from octavo.ops.largest.reference import largest_reference


def draw(width: int, levels: int, device: torch.device) -> torch.Tensor:
    """Rows of whole numbers, of which few levels make many equal; one with a half that is -inf, one that is nothing else."""
    values = torch.randint(-levels, levels + 1, (5, width), generator=torch.Generator().manual_seed(width)).float()
    values[1, : width // 2] = -torch.inf
    values[2] = -torch.inf
    values[3, -2:] = levels
    values[4] = torch.where(torch.arange(width) % 2 == 0, 0.0, -0.0)
    return values.to(device)


@pytest.mark.parametrize("width", [4 * GROUP, 5 * GROUP + 1, 3000, 80 * GROUP])
@pytest.mark.parametrize("count", [1, 3, 20])
@pytest.mark.parametrize("levels", [1, 5, 10**6], ids=lambda levels: f"{levels}-levels")
def test_both_back_ends_find_what_a_sort_finds(width: int, count: int, levels: int, device: torch.device) -> None:
    values = draw(width, levels, device)
    expected = largest_reference(values, count)
    assert cpu_largest(values, count).tolist() == expected
    assert largest(values, count).tolist() == expected
    if count * GROUP <= width:
        assert cuda_largest(values, count).tolist() == expected
        # the twin: the last of them is one less, and another takes its place
        values[0, expected[0][-1]] -= 2 * levels + 1
        assert cuda_largest(values, count).tolist() != expected


def test_as_many_as_the_kernel_finds(device: torch.device) -> None:
    values = draw(4 * MAX_FEW * GROUP + 5, 1000, device)[:2]
    assert cuda_largest(values, MAX_FEW).tolist() == largest_reference(values, MAX_FEW)


def test_a_row_that_is_not_finite_harms_no_other(device: torch.device) -> None:
    values = draw(3000, 5, device)
    expected = cuda_largest(values, 5)
    values[1] = torch.nan
    values[3, 7], values[3, 9] = torch.nan, torch.inf
    got = cuda_largest(values, 5)
    assert torch.equal(got[[0, 2, 4]], expected[[0, 2, 4]])
    assert ((got >= 0) & (got < 3000)).all()
    for row in (0, 2, 4):
        assert torch.equal(cuda_largest(values[row : row + 1], 5)[0], expected[row])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nan_of_either_sign_gives_columns(sign: float, device: torch.device) -> None:
    """The last group is filled up with columns that there are not."""
    values = torch.zeros((1, 20 * GROUP + 1), device=device)
    values[0, : 4 * GROUP] = torch.copysign(torch.tensor(torch.nan), torch.tensor(sign))
    values[0, -1] = 9.0
    for found in (cpu_largest(values, 5), cuda_largest(values, 5)):
        assert ((found >= 0) & (found < values.shape[1])).all()


def test_contract(device: torch.device) -> None:
    values = draw(3000, 5, device)
    for wrong, name in ((values.double(), "values"), (values[:, ::2], "values"), (values[0], "values")):
        with pytest.raises(KernelContractError, match=name):
            cuda_largest(wrong, 5)
    for count in (0, 65, 24):
        with pytest.raises(KernelContractError, match="count"):
            cuda_largest(values, count)
    assert cuda_largest(values[:0], 5).shape == (0, 5)

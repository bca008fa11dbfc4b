"""The bits of a product do not hang on how many are computed at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from octavo.ops.matrix_products import matrix_products

SHAPES = [(32, 2048, 128), (32, 64, 32), (16, 24, 24), (24, 16, 24), (16, 128, 16), (16, 16, 8), (8, 16, 16), (1, 8, 3)]


@pytest.fixture(params=[1, 2, 16])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("swapped", [False, True])
def test_any_number_at_once(shape: tuple[int, int, int], swapped: bool, threads: int) -> None:
    noise, (rows, width, columns) = torch.Generator().manual_seed(1), shape
    left = torch.randn((9, rows, width), generator=noise)
    right = (
        torch.randn((9, columns, width), generator=noise).mT
        if swapped
        else torch.randn((9, width, columns), generator=noise)
    )
    whole = matrix_products(left, right)
    torch.testing.assert_close(whole.double(), left.double() @ right.double(), rtol=1e-4, atol=1e-3)
    for count in (1, 2, 3, 8):
        for first in (0, 9 - count):
            part = slice(first, first + count)
            assert torch.equal(matrix_products(left[part], right[part]), whole[part])
            into = torch.full((count, rows, columns), torch.nan)
            assert matrix_products(left[part], right[part], out=into) is into
            assert torch.equal(into, whole[part])


def test_none_at_all() -> None:
    assert matrix_products(torch.empty(0, 2, 3), torch.empty(0, 3, 4)).shape == (0, 2, 4)

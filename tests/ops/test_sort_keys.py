"""Keys order floats as floats are ordered, and equal floats by their column."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.ops.sort_keys import GROUP, columns_of, largest, sort_keys


@given(st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=40))
def test_the_largest_first_and_the_lower_column_of_equals(values: list[float]) -> None:
    keys = sort_keys(torch.tensor([values], dtype=torch.float32))
    columns = columns_of(keys.sort(descending=True).values, len(values))[0].tolist()
    assert columns == sorted(range(len(values)), key=lambda column: (-values[column], column))


def test_zeros_of_both_signs_are_equal() -> None:
    assert columns_of(sort_keys(torch.tensor([[-0.0, 0.0]])).sort(descending=True).values, 2).tolist() == [[0, 1]]


@pytest.mark.parametrize("width", [4 * GROUP, 5 * GROUP + 1, 3000])
@pytest.mark.parametrize("count", [1, 3, 20])
@pytest.mark.parametrize("levels", [1, 5, 10**6], ids=lambda levels: f"{levels}-levels")
def test_groups_leave_out_none_of_the_largest(width: int, count: int, levels: int) -> None:
    """Of few levels, most of the largest are equal, and which of them count is a matter of their columns."""
    values = torch.randint(-levels, levels + 1, (4, width), generator=torch.Generator().manual_seed(width)).float()
    values[1, : width // 2] = -torch.inf
    values[2] = -torch.inf
    values[3, -2:] = levels
    expected = columns_of(sort_keys(values).sort(descending=True).values, width)[:, :count]
    assert torch.equal(largest(values, count), expected)

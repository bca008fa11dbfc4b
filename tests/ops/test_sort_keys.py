"""Keys order floats as floats are ordered, and equal floats by their column."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.ops.sort_keys import columns_of, sort_keys


@given(st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=40))
def test_the_largest_first_and_the_lower_column_of_equals(values: list[float]) -> None:
    keys = sort_keys(torch.tensor([values], dtype=torch.float32))
    columns = columns_of(keys.sort(descending=True).values, len(values))[0].tolist()
    assert columns == sorted(range(len(values)), key=lambda column: (-values[column], column))


def test_zeros_of_both_signs_are_equal() -> None:
    assert columns_of(sort_keys(torch.tensor([[-0.0, 0.0]])).sort(descending=True).values, 2).tolist() == [[0, 1]]

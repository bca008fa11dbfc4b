"""Equal rows are found by a sum and a comparison: as if each were hashed whole."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.grammar import shared_bytes as module
from octavo.grammar.shared_bytes import shared_bytes

ROWS = st.integers(1, 5).flatmap(
    lambda width: st.lists(
        st.lists(st.sampled_from([0, 1, 2, -1, 1 << 30]), min_size=width, max_size=width), max_size=20
    )
)


def as_rows(values: list[list[int]]) -> npt.NDArray[np.int32]:
    return np.array(values, dtype=np.int32).reshape(len(values), len(values[0]) if values else 1)


def check(values: list[list[int]], cut: int) -> None:
    rows = as_rows(values)
    size = rows.shape[1] * 4 - cut
    made = shared_bytes(rows, size)
    assert made == [row.tobytes()[:size] for row in rows]
    for index, row in enumerate(values):
        assert made[index] is made[values.index(row)]


@given(ROWS, st.integers(0, 3))
def test_each_row_is_its_bytes_and_equal_ones_are_one_object(values: list[list[int]], cut: int) -> None:
    check(values, cut)


@given(ROWS, st.integers(0, 3))
def test_rows_that_differ_are_told_apart_where_their_sums_are_equal(values: list[list[int]], cut: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_factors", lambda count: np.zeros(count, dtype=np.int32))
        check(values, cut)


def test_sums_differ_where_one_bit_is_in_another_place() -> None:
    """So that few rows are hashed."""
    rows = np.zeros((6400, 200), dtype=np.int32)
    rows.view(np.uint32)[np.arange(6400), np.arange(6400) // 32] = 1 << np.arange(6400, dtype=np.uint32) % 32
    sums = np.einsum("ij,j->i", rows, module._factors(200))
    assert len({*sums.tolist()}) > 0.75 * len(rows)
    assert len({*shared_bytes(rows, 800)}) == len(rows)

"""Buffers that are filled together hold what each was to hold, and keep the rest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.ops.padded_buffer import Filling, PaddedBuffer, fill

DTYPES = (torch.int32, torch.int64)


@st.composite
def fillings(draw: st.DrawFn) -> list[Filling]:
    """Of one to five buffers, some of them without rows, values that do not fill their rows."""
    made = []
    for number in range(draw(st.integers(1, 5))):
        dtype, columns = draw(st.sampled_from(DTYPES)), draw(st.sampled_from([(), (1,), (3,), (7,)]))
        rows = draw(st.integers(0, 9))
        buffer = PaddedBuffer((rows, *columns), dtype, torch.device("cpu"), -number)
        buffer.device.fill_(100 + number)  # of the step before
        count = draw(st.integers(0, rows))
        given = draw(st.integers(0, count))
        values = torch.arange(given * max(1, sum(columns)), dtype=dtype).view(given, *columns) + 1000 * number
        made.append(Filling(buffer, values, count))
    return made


@given(fillings())
def test_each_buffer_holds_its_own(drawn: list[Filling]) -> None:
    fill(drawn)
    for number, (buffer, values, count) in enumerate(drawn):
        assert torch.equal(buffer.device[: len(values)], values)
        assert (buffer.device[len(values) : count] == -number).all()
        assert (buffer.device[count:] == 100 + number).all()


def test_a_buffer_keeps_no_memory_of_the_host() -> None:
    buffer, values = PaddedBuffer((3,), torch.int64, torch.device("cpu"), 0), torch.arange(3)
    fill([Filling(buffer, values, 3)])
    values.fill_(9)
    assert buffer.device.tolist() == [0, 1, 2]


def test_values_that_do_not_fit_are_refused() -> None:
    buffer = PaddedBuffer((3,), torch.int64, torch.device("cpu"), 0)
    for length in (2, 0):
        with pytest.raises(ValueError, match=f"rows do not fit in {length}"):
            fill([Filling(buffer, torch.arange(length + 1), length)])

"""Benchmarks of what is bound by memory write one table."""

from __future__ import annotations

import pytest
from benchmarks import delta_net, gates, measurement
from benchmarks.measurement import COLUMNS, Measurement, Timing


def test_a_row_says_the_rate_and_the_floor() -> None:
    """30 MB in 20 us, on a card that copies 3 TB/s: half its rate."""
    row = Measurement("decode", Timing(20.0, 19.0, 22.5), 30e6).row(copied_per_s=3e12)
    assert dict(zip(COLUMNS, row, strict=True)) == {
        "call": "decode",
        "us": "20.0",
        "10th to 90th percentile": "19.0 to 22.5",
        "TB/s": "1.500",
        "floor, us": "10.00",
    }


@pytest.mark.parametrize("name", ["Measurement", "COLUMNS"])
def test_there_is_one_such_table(name: str) -> None:
    assert vars(gates)[name] is vars(delta_net)[name] is vars(measurement)[name]

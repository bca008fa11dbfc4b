"""How the time of a step is shared out among its kernels."""

from __future__ import annotations

import pytest
from benchmarks.profile_step import by_kernel


def test_what_overlaps_is_counted_once() -> None:
    spans = [(0.0, 10.0, "product<1>"), (2.0, 13.0, "norm"), (3.0, 12.0, "quantize"), (20.0, 24.0, "product<2>")]
    found = by_kernel(spans, runs=2)
    assert {name: times.us for name, times in found.items()} == {"product": 7.0, "norm": 1.5, "quantize": 0.0}
    assert found["product"].calls == pytest.approx(1.0)

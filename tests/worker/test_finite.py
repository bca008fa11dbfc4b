"""One number that is not finite, anywhere in a row, is found; and no other row is blamed."""

from __future__ import annotations

import math

import pytest
import torch

from octavo.worker.sampling.finite import finite_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_every_place_is_looked_at(value: float, dtype: torch.dtype) -> None:
    for width in (1, 2, 7, 8, 33, 100):
        for place in range(width):
            rows = torch.full((3, width), -1.0, dtype=dtype)
            rows[:, width // 2] = torch.finfo(dtype).max
            rows[1, place] = value
            assert finite_rows(rows).tolist() == [True, False, True]

"""Comparison of a kernel with its reference, row by row."""

from __future__ import annotations

import torch

BF16_ROUNDING = 2.0**-8
"""Bound of one rounding to bf16, relative, with room for a second one of float32."""
WGMMA = 4e-3
"""Bound of a row's relative error where FP8 products accumulate in Hopper's tensor cores."""


def tolerance(device: torch.device) -> float:
    """The interpreter adds exactly; the tensor cores do not."""
    return BF16_ROUNDING if device.type == "cpu" else BF16_ROUNDING + WGMMA


def row_errors(actual: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """||actual - expected|| / ||expected|| of each row (R, N) in f64; infinite where `actual` is not finite.

    A row that should be zero must be exactly zero.
    """
    actual, expected = actual.double().cpu(), expected.double().cpu()
    difference = (actual - expected).norm(dim=-1)
    size = expected.norm(dim=-1)
    error = torch.where(size == 0, torch.where(difference == 0, 0.0, torch.inf), difference / size)
    return torch.where(torch.isfinite(actual).all(-1), error, torch.inf)


def assert_rows(actual: torch.Tensor, expected: torch.Tensor, limit: float) -> None:
    """Fail, naming the worst row, if any row's error is above `limit`."""
    assert actual.shape == expected.shape
    if actual.numel() == 0:
        return
    errors = row_errors(actual, expected)
    worst = int(errors.argmax())
    assert float(errors[worst]) <= limit, f"row {worst}: relative error {float(errors[worst]):.3g}, limit {limit:.3g}"

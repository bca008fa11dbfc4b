"""bf16 rows to FP8 rows with one scale each."""

from __future__ import annotations

import torch

from octavo.ops.activations import FP8
from octavo.ops.quantize.rule import divide, scales_of


def quantize_tokens(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """q = fp8(x / s) with s = max |x| / 448 over the row; see `rule` for zero, tiny and non-finite rows.

    Args:
        x: (T, K) bf16 or float32; read.

    Returns:
        q (T, K) float8_e4m3fn and s (T, 1) float32, new.
    """
    scale = scales_of(x)
    return divide(x, scale).to(FP8), scale


def round_tokens(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`quantize_tokens` with q as float32, which a CPU computes several times faster than it converts from FP8.

    A number of exponent e >= -6 is rounded to a multiple of 2^(e - 3), smaller ones to a multiple of 2^-9, ties to
    even: by adding and subtracting 1.5 * 2^20 times the power of two, where float32 has just these multiples.

    Returns:
        q (T, K) float32 and s (T, 1) float32, new.
    """
    scale = scales_of(x)
    scaled = divide(x, scale)
    power = (scaled.view(torch.int32) & 0x7F800000).view(torch.float32)
    power.clamp_(min=2.0**-6)
    return scaled.add_(power, alpha=1.5 * 2**20).sub_(power, alpha=1.5 * 2**20), scale

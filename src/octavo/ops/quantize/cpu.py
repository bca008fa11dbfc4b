"""bf16 rows to FP8 rows with one scale each."""

from __future__ import annotations

import torch

from octavo.ops.activations import FP8, FP8_MAX


def quantize_tokens(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """q = fp8(clamp(x / s, -448, 448)) with s = max |x| / 448 over the row, in float32; s = 2^-23 for a row of zeros.

    The rule of compressed-tensors' dynamic token strategy (`calculate_qparams`, `compute_dynamic_scales_and_zp`), with
    the scale in float32. A row with NaN or infinity becomes NaN, and no other row changes.

    Args:
        x: (T, K) bf16 or float32; read.

    Returns:
        q (T, K) float8_e4m3fn and s (T, 1) float32, new.
    """
    scaled, scale = _scale_tokens(x)
    return scaled.to(FP8), scale


def round_tokens(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`quantize_tokens` with q as float32, which a CPU computes several times faster than it converts from FP8.

    A number of exponent e >= -6 is rounded to a multiple of 2^(e - 3), smaller ones to a multiple of 2^-9, ties to
    even: by adding and subtracting 1.5 * 2^20 times the power of two, where float32 has just these multiples.

    Returns:
        q (T, K) float32 and s (T, 1) float32, new.
    """
    scaled, scale = _scale_tokens(x)
    power = (scaled.view(torch.int32) & 0x7F800000).view(torch.float32)
    power.clamp_(min=2.0**-6)
    return scaled.add_(power, alpha=1.5 * 2**20).sub_(power, alpha=1.5 * 2**20), scale


def _scale_tokens(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True).div_(FP8_MAX)
    scale = torch.where(scale == 0, torch.finfo(torch.float32).eps, scale)
    return x.div(scale).clamp_(-FP8_MAX, FP8_MAX), scale

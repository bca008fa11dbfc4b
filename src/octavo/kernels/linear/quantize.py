"""bf16 rows to FP8 rows with one scale each."""

from __future__ import annotations

import torch

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0


def quantize_tokens(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """q = fp8(clamp(x / s, -448, 448)) with s = max |x| / 448 over the row, in float32; s = 2^-23 for a row of zeros.

    The rule of compressed-tensors' dynamic token strategy (`calculate_qparams`, `compute_dynamic_scales_and_zp`), with
    the scale in float32. A row with NaN or infinity becomes NaN, and no other row changes.

    Args:
        x: (T, K) bf16 or float32; read.

    Returns:
        q (T, K) float8_e4m3fn and s (T, 1) float32, new.
    """
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True) / FP8_MAX
    scale = torch.where(scale == 0, torch.finfo(torch.float32).eps, scale)
    return (x / scale).clamp_(-FP8_MAX, FP8_MAX).to(FP8), scale

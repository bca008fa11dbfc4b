"""bf16 rows to FP8 rows, with one scale each or one for each 128 columns."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F

from octavo.ops.activations import BLOCK, FP8, FP8_MAX, blocks
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, Fp8Static, LinearWeight
from octavo.ops.quantize.rule import divide, scales_of

Rounding = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Rows (T, K) -> their codes as float32 and what to multiply them by."""


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
    return _round(divide(x, scale)), scale


def _round(scaled: torch.Tensor) -> torch.Tensor:
    """Each number, of at most 448, as the nearest that FP8 has; in place, float32."""
    power = (scaled.view(torch.int32) & 0x7F800000).view(torch.float32)
    power.clamp_(min=2.0**-6)
    return scaled.add_(power, alpha=1.5 * 2**20).sub_(power, alpha=1.5 * 2**20)


def round_groups(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`round_tokens` of each 128 columns: x (T, K) -> q (T, K) float32 and the scale of each number, (T, K) float32, new."""
    rows, width = x.shape
    padded = blocks(width) * BLOCK
    rounded, scale = round_tokens(F.pad(x, (0, padded - width)).view(-1, BLOCK))
    every = scale.expand(-1, BLOCK).reshape(rows, padded)
    return rounded.view(rows, padded)[:, :width], every[:, :width]


def round_static(x: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`rule.static_codes` as float32: x (T, K) bf16 or float32, scale (1,) float32 -> q (T, K) float32, new, and the scale."""
    codes = _round(x.float().div(scale).clamp_(-FP8_MAX, FP8_MAX))
    return codes.masked_fill_(~x.isfinite(), torch.nan), scale


def dequantized(x: torch.Tensor, rounding: Rounding | None, shares: torch.Tensor | None = None) -> torch.Tensor:
    """x as products take it: rounded to codes, times their scales, times `shares`.

    Args:
        x: (T, K) bf16; read.
        rounding: what the weights ask for.
        shares: (T, 1) float32; read. None: 1.

    Returns:
        (T, K) float32, new.
    """
    if rounding is None:
        return x.float() if shares is None else x.float().mul_(shares)
    rounded, scale = rounding(x)
    return rounded.mul_(scale if shares is None else scale * shares)


def rounding_of(weight: LinearWeight) -> Rounding | None:
    """How inputs of products with `weight` are rounded; None: they are taken as they are. Its parameters are filled."""
    match weight:
        case Bf16():
            return None
        case Fp8Channel():
            return round_tokens
        case Fp8Static():
            return functools.partial(round_static, scale=weight.input_scale)
        case Fp8Block():
            return round_groups

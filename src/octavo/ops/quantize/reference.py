"""Quantisation in plain PyTorch float32: the same IEEE divisions, so the same codes."""

from __future__ import annotations

import torch

from octavo.ops.activations import BLOCK, FP8, GroupScaled, StaticScaled, TokenScaled, blocks
from octavo.ops.quantize.rule import divide, scales_of


def scale_reference(x: torch.Tensor) -> torch.Tensor:
    """Scale (...) f32 of the last dimension of x, by the rule."""
    return scales_of(x).squeeze(-1)


def quantize_reference(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """data (R, K) fp8 and scale (R,) f32 of x (R, K); a row that is not finite has codes 0 and scale NaN."""
    scale = scales_of(x)
    return divide(x, scale).to(FP8), scale.squeeze(-1)


def quantize_groups_reference(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """data (R, K) fp8 and scale (R, ceil(K / 128)) f32: `quantize_reference` of each 128 columns."""
    rows, width = x.shape
    groups = blocks(width)
    padded = torch.nn.functional.pad(x, (0, groups * BLOCK - width)).reshape(rows, groups, BLOCK)
    codes, scale = quantize_reference(padded)
    return codes.flatten(1)[:, :width].contiguous(), scale


def static_reference(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The code fp8 whose number is next to x / scale, the even one of two; 448 is the largest, what is not finite is NaN.

    By comparison with all numbers that FP8 has; x of any shape, scale (1,) or () f32.
    """
    quotient = x.float() / scale
    numbers = torch.arange(127, dtype=torch.uint8, device=x.device).view(FP8).double()
    middles = (numbers[1:] + numbers[:-1]) / 2
    size = quotient.abs().double().contiguous()
    below, above = (torch.bucketize(size, middles, right=right) for right in (False, True))
    code = torch.where(below % 2 == 0, below, above).to(torch.uint8) | quotient.signbit().to(torch.uint8) << 7
    return torch.where(x.isfinite(), code, 0x7F).view(FP8)


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """bf16(bf16(x / sqrt(mean(x^2) + eps)) * weight) of x (R, K) bf16, weight (K,) bf16"""
    x = x.float()
    norm = torch.sqrt(x.square().sum(-1, keepdim=True) / x.shape[-1] + eps)
    return ((x / norm).bfloat16().float() * weight.float()).bfloat16()


def swiglu_reference(gate_up: torch.Tensor) -> torch.Tensor:
    """bf16(silu(gate) * up) of gate_up (R, 2K) bf16"""
    gate, up = gate_up.float().chunk(2, -1)
    return (gate / (1 + torch.exp(-gate)) * up).bfloat16()


class ReferenceQuantizer:
    """Makes the activations that weights ask for, in plain PyTorch; see `Quantizer`."""

    def per_token(self, x: torch.Tensor) -> TokenScaled:
        """See `quantize_reference`."""
        return TokenScaled(*quantize_reference(x))

    def per_group(self, x: torch.Tensor) -> GroupScaled:
        """See `quantize_groups_reference`."""
        return GroupScaled(*quantize_groups_reference(x))

    def static(self, x: torch.Tensor, scale: torch.Tensor) -> StaticScaled:
        """See `static_reference`."""
        return StaticScaled(static_reference(x, scale), scale)

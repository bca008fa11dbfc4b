"""Quantisation in plain PyTorch float32: the same IEEE divisions, so the same codes."""

from __future__ import annotations

import torch

from octavo.ops.activations import BLOCK, FP8, FP8_MAX, GroupScaled, StaticScaled, TokenScaled, blocks
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
        """data = fp8(x / scale) of x (R, K), held within +-448."""
        return StaticScaled((x.float() / scale).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale)

"""The layer as a loop over slots: products in float64, roundings where the layer has them."""

from __future__ import annotations

import torch

from octavo.kernels.combine.reference import combine_reference
from octavo.kernels.grouped_gemm.reference import grouped_gemm_reference, grouped_gemm_swiglu_reference
from octavo.kernels.quantize.reference import quantize_groups_reference, quantize_reference
from octavo.kernels.scaled import (
    FP8,
    FP8_MAX,
    Activations,
    BlockWeights,
    ChannelWeights,
    GroupScaled,
    PlainWeights,
    StaticScaled,
    TensorWeights,
    TokenScaled,
    Unscaled,
    Weights,
)


def activations_reference(x: torch.Tensor, weights: Weights) -> Activations:
    """x (R, K) bf16 in the format that `weights` asks for."""
    match weights:
        case ChannelWeights():
            return TokenScaled(*quantize_reference(x))
        case BlockWeights():
            return GroupScaled(*quantize_groups_reference(x))
        case TensorWeights():
            codes = (x.float() / weights.input_scale).clamp(-FP8_MAX, FP8_MAX)
            return StaticScaled(codes.to(FP8), weights.input_scale)
        case PlainWeights():
            return Unscaled(x)


def moe_reference(
    x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, gate_up: Weights, down: Weights
) -> torch.Tensor:
    """out (T, H) f64 of x (T, H) bf16, ids (T, K) int32, weights (T, K) f32; see `moe`."""
    h = grouped_gemm_swiglu_reference(activations_reference(x, gate_up), gate_up, ids).bfloat16()
    y = grouped_gemm_reference(activations_reference(h, down), down, ids.flatten()).bfloat16()
    return combine_reference(y, ids, weights, down.data.shape[0])

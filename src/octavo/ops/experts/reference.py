"""The expert layer as loops in float64: over rows and experts unrounded, and over slots with the roundings of `moe`."""

from __future__ import annotations

import torch

from octavo.ops.experts.combine.reference import combine_reference
from octavo.ops.experts.grouped_gemm.reference import grouped_gemm_reference, grouped_gemm_swiglu_reference
from octavo.ops.experts.layer import ExpertWeights
from octavo.ops.linear import Bf16Weight, Fp8Weight, LinearWeight
from octavo.ops.linear.reference import linear_reference
from octavo.ops.quantize.reference import quantize_groups_reference, quantize_reference
from octavo.ops.scaled import (
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


def experts_reference(
    x: torch.Tensor, logits: torch.Tensor, weights: ExpertWeights, *, top_k: int, renormalize: bool
) -> torch.Tensor:
    """out[t] = sum over the top-k e of p[t, e] * down[e] (silu(gate[e] x[t]) * (up[e] x[t])), p = softmax(logits[t]).

    x (T, H) bf16, logits (T, E) float32, finite -> (T, H) float64. The input of `down` is rounded to bf16.
    """
    out = torch.zeros(x.shape, dtype=torch.float64)
    for t in range(x.shape[0]):
        shares = logits[t].double().softmax(0)
        chosen = sorted(range(logits.shape[1]), key=lambda e: (-float(logits[t, e]), e))[:top_k]
        total = sum(float(shares[e]) for e in chosen) if renormalize else 1.0
        for e in chosen:
            gate, up = linear_reference(x[t : t + 1], _expert(weights.gate_up, e)).chunk(2, dim=1)
            hidden = (gate * torch.sigmoid(gate) * up).to(torch.bfloat16)
            out[t] += float(shares[e]) / total * linear_reference(hidden, _expert(weights.down, e))[0]
    return out


def _expert(weight: LinearWeight, expert: int) -> LinearWeight:
    match weight:
        case Bf16Weight(data):
            return Bf16Weight(data[expert])
        case Fp8Weight(data, scale):
            return Fp8Weight(data[expert], scale[expert])


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

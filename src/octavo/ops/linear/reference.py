"""The linear layers in plain float64, from bf16 inputs and from what the kernel is given."""

from __future__ import annotations

import torch

from octavo.ops.linear.weight import Bf16Weight, Fp8Weight, LinearWeight
from octavo.ops.scaled import TokenScaled, Unscaled


def linear_reference(x: torch.Tensor, weight: LinearWeight) -> torch.Tensor:
    """y[t, n] = sum over k of x[t, k] * W[n, k] + b[n]; FP8 weights take x rounded to FP8 per row.

    x (T, K) bf16 -> (T, N) float64.
    """
    match weight:
        case Bf16Weight(data, bias):
            out = x.double() @ data.double().t()
        case Fp8Weight(data, scale, bias):
            step = x.float().abs().amax(1, keepdim=True) / 448
            step[step == 0] = torch.finfo(torch.float32).eps
            rounded = (x.float() / step).clamp(-448, 448).to(torch.float8_e4m3fn)
            out = (rounded.double() * step.double()) @ (data.double() * scale.double()[:, None]).t()
    return out if bias is None else out + bias.double()


def dense_gemm_reference(x: TokenScaled | Unscaled, w: LinearWeight) -> torch.Tensor:
    """y (T, N) f64 = x @ w^T + bias"""
    rows, weight = x.data.double(), w.data.double()
    if isinstance(x, TokenScaled):
        rows = rows * x.scale.double()[:, None]
    if isinstance(w, Fp8Weight):
        weight = weight * w.scale.double()[:, None]
    out = rows @ weight.t()
    return out if w.bias is None else out + w.bias.double()

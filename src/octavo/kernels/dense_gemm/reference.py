"""The product in float64, of what the kernel is given."""

from __future__ import annotations

import torch

from octavo.kernels.linear import LinearWeight
from octavo.kernels.linear.weight import Fp8Weight
from octavo.kernels.scaled import TokenScaled, Unscaled


def dense_gemm_reference(x: TokenScaled | Unscaled, w: LinearWeight) -> torch.Tensor:
    """y (T, N) f64 = x @ w^T + bias"""
    rows, weight = x.data.double(), w.data.double()
    if isinstance(x, TokenScaled):
        rows = rows * x.scale.double()[:, None]
    if isinstance(w, Fp8Weight):
        weight = weight * w.scale.double()[:, None]
    out = rows @ weight.t()
    return out if w.bias is None else out + w.bias.double()

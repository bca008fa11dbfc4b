"""The linear layers in plain float64, from bf16 inputs and from what the kernel is given."""

from __future__ import annotations

import torch

from octavo.ops.activations import Activations
from octavo.ops.formats import LinearWeight
from octavo.ops.quantize.reference import ReferenceQuantizer


def linear_reference(x: torch.Tensor, weight: LinearWeight) -> torch.Tensor:
    """y[t, n] = sum over k of x[t, k] * W[n, k] + b[n]; FP8 weights take x rounded to FP8 as they ask.

    x (T, K) bf16 -> (T, N) float64.
    """
    return dense_gemm_reference(weight.activate(x, ReferenceQuantizer()), weight)


def dense_gemm_reference(x: Activations, w: LinearWeight) -> torch.Tensor:
    """y (T, N) f64 = x @ w^T + bias"""
    out = x.values() @ w.values().t()
    return out if w.bias is None else out + w.bias.double()

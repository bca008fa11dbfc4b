"""Grouped products in float64, one expert at a time."""

from __future__ import annotations

import torch

from octavo.ops.scaled import (
    BLOCK,
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


def dequantize(x: Activations) -> torch.Tensor:
    """x (R, K) f64"""
    data = x.data.double()
    match x:
        case TokenScaled():
            return data * x.scale.double()[:, None]
        case GroupScaled():
            return data * x.scale.double().repeat_interleave(BLOCK, 1)[:, : data.shape[1]]
        case StaticScaled():
            return data * x.scale.double()
        case Unscaled():
            return data


def dequantize_expert(w: Weights, expert: int, parts: int) -> torch.Tensor:
    """w[expert] (N, K) f64; `parts` matrices are stacked along N."""
    data = w.data[expert].double()
    rows, cols = data.shape
    match w:
        case ChannelWeights():
            return data * w.scale[expert].double()[:, None]
        case TensorWeights():
            return data * w.scale[expert].double().repeat_interleave(rows // parts)[:, None]
        case BlockWeights():
            scale = w.scale[expert].double().reshape(parts, -1, w.scale.shape[-1])
            scale = scale.repeat_interleave(BLOCK, 1)[:, : rows // parts].reshape(rows, -1)
            return data * scale.repeat_interleave(BLOCK, 1)[:, :cols]
        case PlainWeights():
            return data


def grouped_gemm_reference(x: Activations, w: Weights, ids: torch.Tensor) -> torch.Tensor:
    """y (S, N) f64: y[s] = w[ids[s]] @ x[s] for x (S, K) and ids (S,); NaN where the id is out of range."""
    xs = dequantize(x)
    y = torch.full((len(ids), w.data.shape[1]), torch.nan, dtype=torch.float64, device=ids.device)
    for e in range(w.data.shape[0]):
        slots = (ids == e).nonzero().flatten()
        if len(slots):
            y[slots] = xs[slots] @ dequantize_expert(w, e, 1).T
    return y


def grouped_gemm_swiglu_reference(x: Activations, w: Weights, ids: torch.Tensor) -> torch.Tensor:
    """h (S, I) f64: silu(gate) * up of w[ids[t, k]] @ x[t], in slot order, for x (T, H) and ids (T, K)."""
    xs = dequantize(x)
    h = torch.full((ids.numel(), w.data.shape[1] // 2), torch.nan, dtype=torch.float64, device=ids.device)
    for e in range(w.data.shape[0]):
        slots = (ids.flatten() == e).nonzero().flatten()
        if len(slots):
            gate, up = (xs[slots // ids.shape[1]] @ dequantize_expert(w, e, 2).T).chunk(2, -1)
            h[slots] = gate / (1 + torch.exp(-gate)) * up
    return h

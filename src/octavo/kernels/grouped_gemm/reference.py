"""Grouped products in float64, one expert and one row at a time."""

from __future__ import annotations

import torch

from octavo.kernels.scaled import (
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


def dequantize_weights(w: Weights, parts: int) -> torch.Tensor:
    """w (E, N, K) f64; `parts` matrices are stacked along N."""
    data = w.data.double()
    experts, rows, cols = data.shape
    match w:
        case ChannelWeights():
            return data * w.scale.double()[:, :, None]
        case TensorWeights():
            return data * w.scale.double().repeat_interleave(rows // parts, 1)[:, :, None]
        case BlockWeights():
            scale = w.scale.double().reshape(experts, parts, -1, w.scale.shape[-1])
            scale = scale.repeat_interleave(BLOCK, 2)[:, :, : rows // parts].reshape(experts, rows, -1)
            return data * scale.repeat_interleave(BLOCK, 2)[:, :, :cols]
        case PlainWeights():
            return data


def grouped_gemm_reference(x: Activations, w: Weights, ids: torch.Tensor) -> torch.Tensor:
    """y (S, N) f64: y[s] = w[ids[s]] @ x[s] for x (S, K) and ids (S,); NaN where the id is out of range."""
    xs, ws = dequantize(x), dequantize_weights(w, 1)
    y = torch.full((len(ids), ws.shape[1]), torch.nan, dtype=torch.float64)
    for s, e in enumerate(ids.tolist()):
        if 0 <= e < len(ws):
            y[s] = ws[e] @ xs[s]
    return y


def grouped_gemm_swiglu_reference(x: Activations, w: Weights, ids: torch.Tensor) -> torch.Tensor:
    """h (S, I) f64: silu(gate) * up of w[ids[t, k]] @ x[t], in slot order, for x (T, H) and ids (T, K)."""
    xs, ws = dequantize(x), dequantize_weights(w, 2)
    top_k = ids.shape[1]
    h = torch.full((ids.numel(), ws.shape[1] // 2), torch.nan, dtype=torch.float64)
    for s, e in enumerate(ids.flatten().tolist()):
        if 0 <= e < len(ws):
            gate, up = (ws[e] @ xs[s // top_k]).chunk(2)
            h[s] = gate / (1 + torch.exp(-gate)) * up
    return h

"""Grouped products in float64, one expert at a time."""

from __future__ import annotations

import torch

from octavo.ops.activations import Activations
from octavo.ops.formats import Weights


def grouped_gemm_reference(x: Activations, w: Weights, ids: torch.Tensor) -> torch.Tensor:
    """y (S, N) f64: y[s] = w[ids[s]] @ x[s] for x (S, K) and ids (S,); NaN where the id is out of range."""
    xs = x.values()
    y = torch.full((len(ids), w.data.shape[1]), torch.nan, dtype=torch.float64, device=ids.device)
    for e in range(w.data.shape[0]):
        assignments = (ids == e).nonzero().flatten()
        if len(assignments):
            y[assignments] = xs[assignments] @ w.expert(e).values().T
    return y


def grouped_gemm_swiglu_reference(x: Activations, w: Weights, ids: torch.Tensor) -> torch.Tensor:
    """h (S, I) f64: silu(gate) * up of w[ids[t, k]] @ x[t], in assignment order, for x (T, H) and ids (T, K)."""
    xs = x.values()
    h = torch.full((ids.numel(), w.data.shape[1] // 2), torch.nan, dtype=torch.float64, device=ids.device)
    for e in range(w.data.shape[0]):
        assignments = (ids.flatten() == e).nonzero().flatten()
        if len(assignments):
            gate, up = (xs[assignments // ids.shape[1]] @ w.expert(e).values(2).T).chunk(2, -1)
            h[assignments] = gate / (1 + torch.exp(-gate)) * up
    return h

"""The expert layer in plain float64, one row and one expert at a time."""

from __future__ import annotations

import torch

from octavo.kernels.experts.layer import ExpertWeights
from octavo.kernels.linear import Bf16Weight, Fp8Weight, LinearWeight
from octavo.kernels.linear.reference import linear_reference


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

"""The expert layer as loops in float64: over rows and experts unrounded, and over assignments with the roundings of `moe`."""

from __future__ import annotations

import torch

from octavo.ops.experts.combine.reference import combine_reference
from octavo.ops.experts.grouped_gemm.reference import grouped_gemm_reference, grouped_gemm_swiglu_reference
from octavo.ops.experts.layer import ExpertWeights
from octavo.ops.experts.route.reference import route_reference
from octavo.ops.experts.rules import RoutingRule
from octavo.ops.formats import Weights
from octavo.ops.linear.reference import linear_reference
from octavo.ops.quantize.reference import ReferenceQuantizer


def experts_reference(x: torch.Tensor, logits: torch.Tensor, weights: ExpertWeights, rule: RoutingRule) -> torch.Tensor:
    """out[t] = sum over the chosen e of w[t, e] * down[e] (silu(gate[e] x[t]) * (up[e] x[t])), chosen and weighed by `rule`.

    x (T, H) bf16, logits (T, E) float32, finite -> (T, H) float64. The input of `down` is rounded to bf16.
    """
    out = torch.zeros(x.shape, dtype=torch.float64)
    ids, shares, _ = route_reference(logits, rule)
    for t in range(x.shape[0]):
        for e, share in zip(ids[t].tolist(), shares[t].tolist(), strict=True):
            gate, up = linear_reference(x[t : t + 1], weights.gate_up.expert(e)).chunk(2, dim=1)
            hidden = (gate * torch.sigmoid(gate) * up).to(torch.bfloat16)
            out[t] += share * linear_reference(hidden, weights.down.expert(e))[0]
    return out


def moe_reference(
    x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, gate_up: Weights, down: Weights
) -> torch.Tensor:
    """out (T, H) f64 of x (T, H) bf16, ids (T, K) int32, weights (T, K) f32; see `moe`."""
    h = grouped_gemm_swiglu_reference(gate_up.activate(x, ReferenceQuantizer()), gate_up, ids).bfloat16()
    y = grouped_gemm_reference(down.activate(h, ReferenceQuantizer()), down, ids.flatten()).bfloat16()
    return combine_reference(y, ids, weights, down.data.shape[0])

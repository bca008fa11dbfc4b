"""Router logits to expert ids and weights."""

from __future__ import annotations

import dataclasses

import torch

from octavo.ops.experts.rules import RoutingRule
from octavo.ops.largest import largest


@dataclasses.dataclass(frozen=True)
class Routing:
    """The experts of each row, best first: ids (T, K) int64, weights (T, K) float32."""

    ids: torch.Tensor
    weights: torch.Tensor


def choose_experts(logits: torch.Tensor, rule: RoutingRule) -> Routing:
    """The experts that `rule` chooses for each row, ties to the lower id, and their weights.

    The ids of a row are distinct and in [0, E) for any logits. A row with NaN or infinity is routed as if its logits
    were zero, and its weights are NaN. A row depends on that row alone.

    Args:
        logits: (T, E) float32; read.
        rule: its K is at most E.

    Returns:
        ids (T, K) int64 and weights (T, K) float32, new.
    """
    finite = logits.abs().amax(-1, keepdim=True) < torch.inf
    scores, shares = rule.score(torch.where(finite, logits, 0.0))
    ids = largest(scores, rule.top_k)
    return Routing(ids, torch.where(finite, rule.weigh(shares.gather(1, ids)), torch.nan))


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up; gate_up (T, 2I) float32 -> (T, I) bf16. Written out: torch.silu rounds a row's tail otherwise."""
    gate, up = gate_up.chunk(2, dim=-1)
    return (gate / gate.neg().exp_().add_(1.0)).mul_(up).to(torch.bfloat16)

"""Router logits to expert ids and weights."""

from __future__ import annotations

import dataclasses

import torch

from octavo.ops.experts.rules import ChoosingRule, RoutingRule, SharedRule, sigmoid
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
        logits: (T, L) float32, L what `rule` has for E experts; read.
        rule: its K is at most E.

    Returns:
        ids (T, K) int64 and weights (T, K) float32, new.
    """
    finite = logits.abs().amax(-1, keepdim=True) < torch.inf
    known = torch.where(finite, logits, 0.0)
    ids, weights = _with_shared(known, rule) if isinstance(rule, SharedRule) else _chosen(known, rule)
    return Routing(ids, torch.where(finite, weights, torch.nan))


def _chosen(logits: torch.Tensor, rule: ChoosingRule) -> tuple[torch.Tensor, torch.Tensor]:
    """ids (T, K) int64 and weights (T, K) float32 of finite logits (T, E) float32."""
    scores, shares = rule.score(logits)
    ids = largest(scores, rule.top_k)
    return ids, rule.weigh(shares.gather(1, ids))


def _with_shared(logits: torch.Tensor, rule: SharedRule) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_chosen`, of finite logits (T, L) float32, the expert of every row behind those that are chosen."""
    tokens = len(logits)
    among = logits[:, :-1].contiguous() if rule.gated else logits
    ids, weights = _chosen(among, rule.choosing)
    share = sigmoid(logits[:, -1:].contiguous()) if rule.gated else weights.new_ones((tokens, 1))
    last = ids.new_full((tokens, 1), among.shape[1])
    return torch.cat((ids, last), 1), torch.cat((weights, share), 1)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up; gate_up (T, 2I) float32 -> (T, I) bf16. Written out: torch.silu rounds a row's tail otherwise."""
    gate, up = gate_up.chunk(2, dim=-1)
    return (gate / gate.neg().exp_().add_(1.0)).mul_(up).to(torch.bfloat16)

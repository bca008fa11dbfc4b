"""How a router's logits choose experts and weigh them: by their softmax, or by the sigmoid of each with a bias."""

from __future__ import annotations

import dataclasses

import torch

from octavo.ops.largest import largest

MASKED = torch.finfo(torch.float32).min
"""The score of an expert whose group is not kept."""
MAX_TOP_K = 32
"""Of a rule: kernels keep the experts of a row in the lanes of a warp."""
TINY = 1e-20
"""Added to the sum of sigmoids before it divides: they may all be 0."""


@dataclasses.dataclass(frozen=True)
class SoftmaxRule:
    """The `top_k` largest logits, weighted by their softmax."""

    top_k: int
    renormalize: bool
    """Whether the weights of the chosen experts sum to one: the same as a softmax over the chosen alone."""

    def logits_for(self, experts: int) -> int:
        """Logits of a row, for so many experts."""
        return experts

    def score(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What decides and what is weighed, of finite logits (T, E) float32: both (T, E) float32."""
        return logits, logits.softmax(-1)

    def weigh(self, shares: torch.Tensor) -> torch.Tensor:
        """The weights (T, K) float32 of the chosen experts' shares (T, K) float32."""
        return shares / shares.sum(-1, keepdim=True) if self.renormalize else shares


@dataclasses.dataclass(frozen=True)
class SigmoidRule:
    """The `top_k` largest of sigmoid(logit) + bias within the best groups, weighted by the sigmoid alone, times `scale`.

    A group of experts is as good as the sum of its two best. Of equal groups the lower one is kept.
    """

    top_k: int
    renormalize: bool
    """Whether the weights of the chosen experts are divided by their sum, before `scale`."""
    bias: torch.Tensor
    """(E,) float32, finite."""
    groups: int = 1
    """Into how many groups of neighbours the experts fall, of at least two each."""
    kept: int = 1
    """How many groups experts are chosen from."""
    scale: float = 1.0

    def logits_for(self, experts: int) -> int:
        """As `SoftmaxRule.logits_for`."""
        return experts

    def score(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `SoftmaxRule.score`: (T, E) float32 -> (T, E) float32 twice."""
        shares = sigmoid(logits)
        scores = shares + self.bias
        if self.groups == self.kept:
            return scores, shares
        grouped = scores.unflatten(1, (self.groups, -1))
        best = largest(grouped.topk(2, dim=-1).values.sum(-1), self.kept)
        places = best[..., None].expand(-1, -1, grouped.shape[2])
        return torch.full_like(grouped, MASKED).scatter_(1, places, grouped.gather(1, places)).flatten(1), shares

    def weigh(self, shares: torch.Tensor) -> torch.Tensor:
        """As `SoftmaxRule.weigh`: (T, K) float32 -> (T, K) float32."""
        return (shares / (shares.sum(-1, keepdim=True) + TINY) if self.renormalize else shares) * self.scale


ChoosingRule = SoftmaxRule | SigmoidRule


@dataclasses.dataclass(frozen=True)
class SharedRule:
    """What `choosing` chooses among all experts but the last, and behind them the last, which every row takes."""

    choosing: ChoosingRule
    gated: bool
    """Whether the last expert has a logit, behind the others', by whose sigmoid it is weighted; else by one."""

    @property
    def top_k(self) -> int:
        """Experts of a row."""
        return self.choosing.top_k + 1

    def logits_for(self, experts: int) -> int:
        """As `SoftmaxRule.logits_for`."""
        return experts if self.gated else experts - 1


RoutingRule = SoftmaxRule | SigmoidRule | SharedRule


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    """1 / (1 + exp(-x)) of x (...) float32, new. Written out: on a CPU torch.sigmoid rounds the last few numbers otherwise."""
    return x.neg().exp_().add_(1.0).reciprocal_()

"""The expert layer of a model on this layer's kernels: router logits and hidden states in, hidden states out."""

from __future__ import annotations

import torch

from octavo.ops.contract import check_range
from octavo.ops.experts.combine import combine
from octavo.ops.experts.moe import MoeWorkspace, expert_parts
from octavo.ops.experts.permute import most_apart
from octavo.ops.experts.route import route
from octavo.ops.experts.rules import RoutingRule
from octavo.ops.formats import Weights
from octavo.ops.inputs import Inputs
from octavo.ops.weighted_sum import WeightedSum


class KernelExperts:
    """Routes and runs the experts; layers of one shape share a workspace. A row's bits depend on that row alone."""

    def __init__(self, gate_up: Weights, down: Weights, rule: RoutingRule, *, workspace: MoeWorkspace) -> None:
        self._gate_up, self._down = gate_up, down
        self._rule, self._workspace = rule, workspace

    def __call__(
        self, x: torch.Tensor | Inputs, logits: torch.Tensor, rows_in_use: torch.Tensor | None = None
    ) -> torch.Tensor:
        """sum over the top-k experts e of w[e] * down[e] (silu(gate[e] x) * (up[e] x)).

        Args:
            x: (T, H) bf16, or as a norm made it, T at most the workspace's tokens; read.
            logits: (T, L) float32 of the router, as many as the rule has for E experts; read.
            rows_in_use: (1,) int32, the rows in use; read. Experts that only others choose are not run. None: all.

        Returns:
            (T, H) bf16, new. A row whose logits are not all finite is NaN.

        Raises:
            KernelContractError: a tensor has another dtype, size or device.
        """
        parts = self.addend(x, logits, rows_in_use)
        out = torch.empty_like(Inputs.of(x).data, dtype=torch.bfloat16)
        flags = torch.empty(len(out), dtype=torch.bool, device=out.device)
        return combine(
            parts.parts, parts.ids, parts.weights, parts.experts, out=out, flags=flags, rows_in_use=rows_in_use
        )

    def addend(
        self, x: torch.Tensor | Inputs, logits: torch.Tensor, rows_in_use: torch.Tensor | None = None
    ) -> WeightedSum:
        """The same, not summed yet: parts in the workspace; see `Experts`."""
        experts = len(self._down.data)
        width = self._rule.logits_for(experts)
        check_range("logits.shape[1]", logits.shape[1], width, width, "pass the logits of these experts' router")
        few = len(logits) <= most_apart(self._rule.top_k, experts)
        permutation = self._workspace.permutation if few else None
        routing = route(logits, self._rule, spoil=True, rows_in_use=rows_in_use, permutation=permutation)
        return expert_parts(
            x, routing.ids, routing.weights, self._gate_up, self._down,
            workspace=self._workspace, permutation=permutation, rows_in_use=rows_in_use,
        )  # fmt: skip

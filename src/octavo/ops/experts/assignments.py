"""Where an expert layer's assignments come from: ids and weights that were given, or a router's logits."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch

from octavo.ops.contract import Dims, check_range
from octavo.ops.experts.permute import Permutation, permute
from octavo.ops.experts.route_place import route_place
from octavo.ops.experts.rules import RoutingRule


class Assignments(Protocol):
    """Experts for each of T tokens, and how they are weighed."""

    def check(self, dims: Dims, top_k: int) -> None:
        """Raises: KernelContractError where they are not of T tokens with `top_k` of E experts each; tensors are (T, ...)."""
        ...

    def place(
        self, experts: int, *, tile_rows: int, rows_in_use: torch.Tensor | None, out: Permutation
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write `out` as `permute` does, and return ids (T, K) int32 and weights (T, K) f32; rows_in_use (1,) int32 or None."""
        ...


@dataclasses.dataclass(frozen=True)
class GivenAssignments:
    """`Assignments` that somebody else made."""

    ids: torch.Tensor
    """(T, K) int32, any values."""
    weights: torch.Tensor
    """(T, K) f32"""

    def check(self, dims: Dims, top_k: int) -> None:
        """See `Assignments`."""
        dims.check("ids", self.ids, ("T", top_k), dtype=torch.int32)

    def place(
        self, experts: int, *, tile_rows: int, rows_in_use: torch.Tensor | None, out: Permutation
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Assignments`."""
        permute(self.ids, experts, tile_rows=tile_rows, rows_in_use=rows_in_use, out=out)
        return self.ids, self.weights


@dataclasses.dataclass(frozen=True)
class RouterAssignments:
    """`Assignments` that `rule` makes of logits; a row whose logits are not all finite is weighed by NaN."""

    logits: torch.Tensor
    """(T, E) f32 or bf16"""
    rule: RoutingRule

    def check(self, dims: Dims, top_k: int) -> None:
        """See `Assignments`."""
        dims.check("logits", self.logits, ("T", "E"), dtype=(torch.float32, torch.bfloat16))
        check_range("rule.top_k", self.rule.top_k, top_k, top_k, "allocate the workspace for the rule")

    def place(
        self, experts: int, *, tile_rows: int, rows_in_use: torch.Tensor | None, out: Permutation
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Assignments`."""
        routing, _ = route_place(
            self.logits, self.rule, tile_rows=tile_rows, spoil=True, rows_in_use=rows_in_use, permutation=out
        )
        return routing.ids, routing.weights

"""The expert layer on a CPU, whose rows depend on nothing but themselves."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F

from octavo.ops.contract import Dims
from octavo.ops.experts.layer import ExpertWeights
from octavo.ops.experts.routing import Routing, choose_experts, swiglu
from octavo.ops.experts.rules import RoutingRule
from octavo.ops.formats import LinearWeight
from octavo.ops.inputs import Inputs
from octavo.ops.linear.cpu import TILE_ROWS
from octavo.ops.matrix_products import matrix_products
from octavo.ops.quantize.cpu import dequantized, rounding_of
from octavo.ops.row_chunks import row_chunks

GROUP_TILES = 64
"""Tiles after which a group of experts ends: its operands stay in the cache."""


@dataclasses.dataclass(frozen=True)
class _Group:
    """Experts computed together, each on whole tiles."""

    experts: list[int]
    tiles: list[int]
    """Of each expert."""
    rows: slice
    """Of all padded rows."""


class CpuExperts:
    """Each expert's rows go through products of 32-row tiles, in float32.

    The weights are widened once. A row's bits depend on that row and the weights alone.
    """

    def __init__(self, weights: ExpertWeights, rule: RoutingRule) -> None:
        self._gate_up, self._down = _Stack(weights.gate_up), _Stack(weights.down)
        self._experts, self._hidden_size = weights.down.data.shape[:2]
        self._rule, self._top_k = rule, rule.top_k

    def __call__(
        self, x: torch.Tensor | Inputs, logits: torch.Tensor, rows_in_use: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `Experts`; the weighted outputs are rounded to bf16, added in float32 and rounded, ties to even.

        Raises:
            KernelContractError: a tensor has another dtype or size.
        """
        x = Inputs.of(x).bf16
        dims = Dims()
        dims.check("x", x, ("T", self._hidden_size), dtype=torch.bfloat16)
        dims.check("logits", logits, ("T", self._rule.logits_for(self._experts)), dtype=torch.float32)
        routing = self._choose(logits)
        assignments, places, groups = _tile_assignments(routing.ids.view(-1).numpy(), self._experts)
        inputs, sources = self._gate_up.prepare(x), assignments // self._top_k
        shares = routing.weights.view(-1, 1).index_select(0, assignments)
        rows = x.new_empty((len(assignments), self._hidden_size))
        for group in groups:
            hidden = swiglu(self._gate_up.product(inputs.index_select(0, sources[group.rows]), group))
            rows[group.rows] = self._down.product(self._down.prepare(hidden, shares[group.rows]), group)
        # in bf16 it would round ties away from zero
        return F.embedding_bag(places.view(-1, self._top_k), rows.float(), mode="sum").bfloat16()

    def addend(
        self, x: torch.Tensor | Inputs, logits: torch.Tensor, rows_in_use: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `Experts`."""
        return self(x, logits, rows_in_use)

    def _choose(self, logits: torch.Tensor) -> Routing:
        parts = [choose_experts(logits[chunk], self._rule) for chunk in row_chunks(len(logits))]
        return Routing(torch.cat([part.ids for part in parts]), torch.cat([part.weights for part in parts]))


class _Stack:
    """Holds one matrix of every expert, (E, K, N) float32."""

    def __init__(self, weight: LinearWeight) -> None:
        self._rounding = rounding_of(weight)
        self._stack = weight.wide().transpose(1, 2).contiguous()
        self._matrices = self._stack.unbind()

    def prepare(self, x: torch.Tensor, shares: torch.Tensor | None = None) -> torch.Tensor:
        """x (T, K) bf16 as this matrix takes it, times `shares` (T, 1) float32: (T, K) float32, new."""
        return dequantized(x, self._rounding, shares)

    def product(self, rows: torch.Tensor, group: _Group) -> torch.Tensor:
        """x W[e]^T for each expert e of the group: (P, K) -> (P, N) float32."""
        tiles = rows.view(-1, TILE_ROWS, rows.shape[1])
        out = rows.new_empty((len(tiles), TILE_ROWS, self._stack.shape[2]))
        if len(tiles) == len(group.experts):  # PyTorch's threads share out one product, but not many of one tile
            experts = torch.tensor(group.experts, dtype=torch.int64)
            matrix_products(tiles, self._stack.index_select(0, experts), out=out)
        else:
            sides = (torch.split(side, group.tiles) for side in (tiles, out))
            for expert, some, target in zip(group.experts, *sides, strict=True):
                matrix_products(some, self._matrices[expert].expand(len(some), -1, -1), out=target)
        return out.flatten(0, 1)


def _tile_assignments(ids: np.ndarray, experts: int) -> tuple[torch.Tensor, torch.Tensor, list[_Group]]:
    """Assignments (token * K + k) by expert, each expert's padded to whole tiles.

    Args:
        ids: (T * K,) expert of each assignment.
        experts: E

    Returns:
        (P,) int64 assignment of each padded row, assignment 0 in padding; (T * K,) int64 row of each assignment; the groups in order.
    """
    order = np.argsort(ids.astype(np.int16), kind="stable")
    counts = np.bincount(ids, minlength=experts)
    tiles = -(-counts // TILE_ROWS)
    used = np.flatnonzero(counts)
    used = used[np.argsort(tiles[used], kind="stable")]  # those of one tile first
    ends = tiles[used].cumsum()
    begins = np.zeros_like(counts)
    begins[used] = TILE_ROWS * (ends - tiles[used])
    rows = np.arange(len(ids)) + np.repeat(begins - (counts.cumsum() - counts), counts)
    assignments, places = np.zeros(TILE_ROWS * tiles.sum(), dtype=np.int64), np.empty_like(rows)
    assignments[rows], places[order] = order, rows
    cuts = np.flatnonzero(np.diff(ends // GROUP_TILES) | np.diff(tiles[used] > 1)) + 1
    groups: list[_Group] = []
    for members in np.split(used, cuts):
        begin = groups[-1].rows.stop if groups else 0
        rows_of = slice(begin, begin + TILE_ROWS * int(tiles[members].sum()))
        groups.append(_Group(members.tolist(), tiles[members].tolist(), rows_of))
    return torch.from_numpy(assignments), torch.from_numpy(places), groups

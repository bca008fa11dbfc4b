"""The expert layer on a CPU, whose rows depend on nothing but themselves."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from octavo.kernels.expect import expect
from octavo.kernels.experts.layer import ExpertWeights
from octavo.kernels.experts.routing import choose_experts, combine, swiglu
from octavo.kernels.linear import Bf16Weight, Fp8Weight, LinearWeight, round_tokens, widen
from octavo.kernels.linear.cpu import TILE_ROWS

GROUP_ROWS = 4096
"""Rows of one group of experts: its float64 operands stay in the cache."""


@dataclasses.dataclass(frozen=True)
class _ExpertGroup:
    """Experts computed together, each on `height` rows, some of them padding."""

    experts: torch.Tensor
    """(n,) int64"""
    height: int
    slots: torch.Tensor
    """(n * height,) int64 slots (token * K + k); padding repeats some slot."""
    members: np.ndarray
    """(m,) the slots in it, each once"""
    at: np.ndarray
    """(m,) their places in `slots`"""


class CpuExperts:
    """Experts with about as many rows go through one batched product.

    FP8: sums in float64, exact (see `ExactFp8Linear`). bf16: float32 products of 32-row tiles.
    """

    def __init__(self, weights: ExpertWeights, *, top_k: int, renormalize: bool) -> None:
        self._gate_up, self._down = weights.gate_up, weights.down
        self._top_k, self._renormalize = top_k, renormalize

    def __call__(self, x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """See `Experts`.

        Raises:
            KernelContractError: a tensor has another dtype or size.
        """
        experts, hidden_size, _ = self._down.data.shape
        expect("x", x, (None, hidden_size), torch.bfloat16)
        expect("logits", logits, (x.shape[0], experts), torch.float32)
        routing = choose_experts(logits, self._top_k, renormalize=self._renormalize)
        step = TILE_ROWS if isinstance(self._down, Bf16Weight) else 1
        groups = _group_slots(routing.ids.view(-1).numpy(), experts, step)
        rows = x.new_empty((sum(len(group.slots) for group in groups), hidden_size))
        places = np.empty(routing.ids.numel(), dtype=np.int64)
        begin = 0
        inputs = _Rows.of(x, self._gate_up)
        for group in groups:
            places[group.members] = begin + group.at
            end = begin + len(group.slots)
            hidden = swiglu(_batched(inputs.take(group.slots // self._top_k), self._gate_up, group))
            rows[begin:end].copy_(_batched(_Rows.of(hidden, self._down), self._down, group))
            begin = end
        return combine(rows, torch.from_numpy(places).view(routing.ids.shape), routing.weights)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Inputs of a product: FP8 numbers as float32 with a scale per row, or bf16 without."""

    data: torch.Tensor
    scale: torch.Tensor | None

    @classmethod
    def of(cls, x: torch.Tensor, weight: LinearWeight) -> _Rows:
        return cls(*round_tokens(x)) if isinstance(weight, Fp8Weight) else cls(x, None)

    def take(self, rows: torch.Tensor) -> _Rows:
        scale = None if self.scale is None else self.scale.index_select(0, rows)
        return _Rows(self.data.index_select(0, rows), scale)


def _batched(rows: _Rows, weight: LinearWeight, group: _ExpertGroup) -> torch.Tensor:
    """rows @ W[e]^T for each expert e of the group: (n * height, K) -> (n * height, N) float32."""
    shape = (len(group.experts), group.height, rows.data.shape[1])
    match weight:
        case Fp8Weight(data, scale):
            assert rows.scale is not None
            wide = widen(_select(data, group.experts)).transpose(1, 2)
            out = torch.bmm(rows.data.double().view(shape), wide).float()
            out.mul_(rows.scale.view(*shape[:2], 1)).mul_(scale.index_select(0, group.experts)[:, None])
        case Bf16Weight(data):
            wide = data.index_select(0, group.experts).float().transpose(1, 2)
            tiles = rows.data.float().view(shape[0], -1, TILE_ROWS, shape[2])
            out = tiles.new_empty((*tiles.shape[:3], wide.shape[2]))
            for tile in range(tiles.shape[1]):
                out[:, tile] = torch.bmm(tiles[:, tile], wide)
    return out.view(shape[0] * shape[1], -1)


def _group_slots(ids: np.ndarray, experts: int, step: int) -> list[_ExpertGroup]:
    """Groups of experts of like row counts.

    ids: (T * K,) expert of each slot; `step`: heights are multiples of it.
    """
    order = np.argsort(ids.astype(np.int16), kind="stable")
    counts = np.bincount(ids, minlength=experts)
    offsets = np.cumsum(counts) - counts
    heights = np.array([_height(count, step) for count in counts.tolist()])
    used = np.flatnonzero(counts)
    used = used[np.argsort(heights[used], kind="stable")]
    groups, start = [], 0
    while start < len(used):
        height = int(heights[used[start]])
        most = start + max(1, GROUP_ROWS // height)
        end = start + int(np.searchsorted(heights[used[start:most]], height, side="right"))
        members = used[start:end]
        column = np.arange(height)
        filled = column < counts[members, None]
        slots = order[np.where(filled, offsets[members, None] + column, 0)]
        at = np.flatnonzero(filled)
        flat = slots.reshape(-1)
        groups.append(_ExpertGroup(torch.from_numpy(members), height, torch.from_numpy(flat), flat[at], at))
        start = end
    return groups


def _height(count: int, step: int) -> int:
    """`count` rounded up to `step` and, above 8 of them, to an eighth of the power of two below: few heights, few rows."""
    tiles = -(-count // step)
    unit = max(1, 1 << max(0, (tiles - 1).bit_length() - 4))
    return step * unit * -(-tiles // unit)


def _select(data: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    """data[experts] for FP8 stacks."""
    return data.view(torch.uint8).index_select(0, experts).view(data.dtype)

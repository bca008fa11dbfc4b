"""The expert layer on a CPU, whose rows depend on nothing but themselves."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from octavo.kernels.expect import expect
from octavo.kernels.experts.layer import ExpertWeights
from octavo.kernels.experts.routing import choose_experts, combine, swiglu
from octavo.kernels.linear import Fp8Weight, LinearWeight, round_tokens, widen
from octavo.kernels.linear.cpu import TILE_ROWS

GROUP_ROWS = 2048
"""Rows of one group of experts: its operands stay in the cache."""
PIECE_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class _ExpertGroup:
    """Experts computed together, each on `height` rows, some of them padding."""

    experts: torch.Tensor
    """(n,) int64"""
    height: int
    slots: torch.Tensor
    """(n * height,) int64 slots (token * K + k), tile by tile of each expert in turn; padding repeats some slot."""
    members: np.ndarray
    """(m,) the slots in it, each once"""
    at: np.ndarray
    """(m,) their places in `slots`"""


class CpuExperts:
    """Experts with about as many rows go through one batched product of 32-row tiles, in float32.

    The weights are widened once. A row's bits depend on that row and the weights alone.
    """

    def __init__(self, weights: ExpertWeights, *, top_k: int, renormalize: bool) -> None:
        self._gate_up, self._down = _Stack(weights.gate_up), _Stack(weights.down)
        self._experts, self._hidden_size = weights.down.data.shape[:2]
        self._top_k, self._renormalize = top_k, renormalize

    def __call__(self, x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """See `Experts`.

        Raises:
            KernelContractError: a tensor has another dtype or size.
        """
        expect("x", x, (None, self._hidden_size), torch.bfloat16)
        expect("logits", logits, (x.shape[0], self._experts), torch.float32)
        routing = choose_experts(logits, self._top_k, renormalize=self._renormalize)
        groups = _group_slots(routing.ids.view(-1).numpy(), self._experts)
        rows = x.new_empty((sum(len(group.slots) for group in groups), self._hidden_size))
        places = np.empty(routing.ids.numel(), dtype=np.int64)
        begin = 0
        inputs = self._gate_up.prepare(x)
        for group in groups:
            places[group.members] = begin + group.at
            end = begin + len(group.slots)
            hidden = swiglu(self._gate_up.product(inputs.take(group.slots // self._top_k), group))
            rows[begin:end].copy_(self._down.product(self._down.prepare(hidden), group))
            begin = end
        return combine(rows, torch.from_numpy(places).view(routing.ids.shape), routing.weights)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Inputs of a product in float32: FP8 numbers with a scale per row, or bf16 numbers without."""

    data: torch.Tensor
    scale: torch.Tensor | None

    def take(self, rows: torch.Tensor) -> _Rows:
        scale = None if self.scale is None else self.scale.index_select(0, rows)
        return _Rows(self.data.index_select(0, rows), scale)


class _Stack:
    """The same matrix of every expert, (E, K, N) float32."""

    def __init__(self, weight: LinearWeight) -> None:
        self._scale = weight.scale if isinstance(weight, Fp8Weight) else None
        wide = widen(weight.data) if isinstance(weight, Fp8Weight) else weight.data.float()
        self._data = wide.transpose(1, 2).contiguous()

    def prepare(self, x: torch.Tensor) -> _Rows:
        """x (T, K) bf16 as this matrix takes it."""
        if self._scale is None:
            return _Rows(x.float(), None)
        data, scale = x.new_empty(x.shape, dtype=torch.float32), x.new_empty((len(x), 1), dtype=torch.float32)
        for begin in range(0, len(x), PIECE_ROWS):
            piece = slice(begin, begin + PIECE_ROWS)
            data[piece], scale[piece] = round_tokens(x[piece])
        return _Rows(data, scale)

    def product(self, rows: _Rows, group: _ExpertGroup) -> torch.Tensor:
        """x W[e]^T for each expert e of the group: (n * height, K) -> (n * height, N) float32."""
        experts, width = len(group.experts), rows.data.shape[1]
        weights = self._data.index_select(0, group.experts)
        tiles = rows.data.view(-1, experts, TILE_ROWS, width)
        out = tiles.new_empty((*tiles.shape[:3], weights.shape[2]))
        for tile, target in zip(tiles, out, strict=True):
            torch.bmm(tile, weights, out=target)
        if rows.scale is not None and self._scale is not None:
            scale = self._scale.index_select(0, group.experts)[:, None]
            out.mul_(rows.scale.view(*tiles.shape[:3], 1)).mul_(scale)
        return out.view(-1, weights.shape[2])


def _group_slots(ids: np.ndarray, experts: int) -> list[_ExpertGroup]:
    """Groups of experts of like row counts.

    ids: (T * K,) expert of each slot.
    """
    order = np.argsort(ids.astype(np.int16), kind="stable")
    counts = np.bincount(ids, minlength=experts)
    offsets = np.cumsum(counts) - counts
    heights = np.array([_height(count) for count in counts.tolist()])
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
        flat = _by_tile(slots)
        at = np.flatnonzero(_by_tile(filled))
        groups.append(_ExpertGroup(torch.from_numpy(members), height, torch.from_numpy(flat), flat[at], at))
        start = end
    return groups


def _by_tile(rows: np.ndarray) -> np.ndarray:
    """(n, height) -> (n * height,): the first tile of each of the n, then the second of each, and so on."""
    return np.ascontiguousarray(rows.reshape(len(rows), -1, TILE_ROWS).swapaxes(0, 1)).reshape(-1)


def _height(count: int) -> int:
    """`count` rounded up to tiles and, above 8 of them, to an eighth of the power of two below: few heights, few rows."""
    tiles = -(-count // TILE_ROWS)
    unit = max(1, 1 << max(0, (tiles - 1).bit_length() - 4))
    return TILE_ROWS * unit * -(-tiles // unit)

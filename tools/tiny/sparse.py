"""Only the chosen experts: assignments sorted by expert into blocks of rows, one batched product over the blocks.

Every shape is known beforehand, no assignment is dropped, nothing waits for the device, and no gradient is added atomically:
rows move by gathers both ways, and the weights of the blocks are picked by a product with a one-hot matrix.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where each of the T x k assignments lies among B blocks of R rows, each block of one expert."""

    token: Tensor
    """(B * R,) int64: the token of a row; T where the row is empty."""
    assignment: Tensor
    """(B * R,) int64: the assignment (token * k + choice) of a row; T * k where the row is empty."""
    row: Tensor
    """(T, k) int64: the row of an assignment."""
    expert: Tensor
    """(B,) int64: the expert of a block."""


def layout(ids: Tensor, experts: int, block: int) -> Layout:
    """Lay out the chosen experts `ids` (T, k) int64 in ceil(T * k / block) + experts blocks of `block` rows."""
    tokens, k = ids.shape
    assignments = tokens * k
    blocks = -(-assignments // block) + experts
    flat = ids.flatten()
    order = flat.to(torch.int16).argsort(stable=True)
    owner = flat[order]
    counts = torch.zeros(experts, dtype=torch.int64, device=ids.device).index_add(0, flat, torch.ones_like(flat))
    taken = (counts + block - 1) // block
    ends = taken.cumsum(0)
    rank = torch.arange(assignments, device=ids.device) - (counts.cumsum(0) - counts)[owner]
    place = (ends - taken)[owner] * block + rank
    row = torch.empty_like(flat).scatter(0, order, place)
    assignment = torch.full((blocks * block,), assignments, dtype=torch.int64, device=ids.device).scatter(
        0, place, order
    )
    expert = torch.searchsorted(ends, torch.arange(blocks, device=ids.device), right=True).clamp(max=experts - 1)
    return Layout(token=assignment // k, assignment=assignment, row=row.view(tokens, k), expert=expert)


def _spread(x: Tensor, source: Tensor) -> Tensor:
    return torch.cat((x, torch.zeros_like(x[:1])))[source]


class _Spread(torch.autograd.Function):
    """y[r] = x[source[r]], zero beyond the end of x; `row` (N, c) says which rows of y hold each row of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, row: Tensor) -> Tensor:
        ctx.save_for_backward(row)
        return _spread(x, source)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (row,) = ctx.saved_tensors
        return grads[0][row].sum(dim=1), None, None


class _Collect(torch.autograd.Function):
    """y[t] = the sum over c of x[row[t, c]]: the transpose of `_Spread`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, row: Tensor) -> Tensor:
        ctx.save_for_backward(source)
        return x[row].sum(dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (source,) = ctx.saved_tensors
        return _spread(grads[0], source), None, None


def spread(x: Tensor, source: Tensor, row: Tensor) -> Tensor:
    """Copy rows of x (N, ...) to the rows of the blocks; empty rows are zero."""
    out: Tensor = _Spread.apply(x, source, row)  # type: ignore[no-untyped-call]
    return out


def collect(x: Tensor, source: Tensor, row: Tensor) -> Tensor:
    """Add up each token's rows of x (B * R, ...)."""
    out: Tensor = _Collect.apply(x, source, row)  # type: ignore[no-untyped-call]
    return out


def swiglu(
    x: Tensor, ids: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, *, rounded: Any, block: int
) -> Tensor:
    """Sum over a token's experts of weight * down(rounded(silu(gate x) * up x)), (T, H).

    x (T, H); ids (T, k) int64; weights (T, k); gate_up (E, 2 * I, H) and down (E, H, I) in x's dtype; `rounded` rounds
    rows as inference does.
    """
    plan = layout(ids, gate_up.shape[0], block)
    pick = (plan.expert[:, None] == torch.arange(gate_up.shape[0], device=x.device)).to(x.dtype)
    rows = spread(x, plan.token, plan.row).view(-1, block, x.shape[1])
    gate, up = (rows @ (pick @ gate_up.flatten(1)).view(-1, *gate_up.shape[1:]).transpose(1, 2)).chunk(2, dim=-1)
    inner = rounded((F.silu(gate.float()) * up.float()).to(x.dtype))
    share = spread(weights.flatten(), plan.assignment, plan.row.view(-1, 1)).view(-1, block, 1)
    inner = (inner * share).to(x.dtype)
    out = inner @ (pick @ down.flatten(1)).view(-1, *down.shape[1:]).transpose(1, 2)
    return collect(out.flatten(0, 1), plan.token, plan.row)

"""The gated delta rule in chunks of positions, with gradients: products of batches of matrices, and one short loop over chunks.

Within a chunk the rows that are written solve a triangular system (Yang et al., "Gated Delta Networks: Improving Mamba2 with
Delta Rule", 2024): what a row writes is its value without what the rows before it have left under its key.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 128
LEAST = 16
"""Size of the triangles that are inverted by powers: of larger ones the powers outgrow float32."""


def pad(x: Tensor, dim: int, size: int, value: float = 0.0) -> Tensor:
    """x with its dimension `dim`, counted from behind, filled up to a multiple of `size`."""
    missing = -x.shape[dim] % size
    return F.pad(x, (0, 0) * (-1 - dim) + (0, missing), value=value) if missing else x


@dataclasses.dataclass(frozen=True)
class Sight:
    """Which rows of N chunks of L meet."""

    within: Tensor
    """(B or 1, N or 1, 1, 1, L, L) bool: which rows of its chunk a row sees."""
    before: Tensor | None
    """(B, N, 1, 1, L, 1) bool: whether a row sees the state that its chunk begins with; None: all do."""
    behind: Tensor | None
    """(B, N, 1, 1, L, 1) bool: whether what a row writes is in the state that its chunk ends with; None: all do."""


def sight(length: int, owners: Tensor | None, device: torch.device, size: int = CHUNK) -> Sight:
    """What rows of `length` see: of each owner the tokens up to their own; owners (B, S) int64, None: one for each row."""
    lower = torch.ones(size, size, dtype=torch.bool, device=device).tril()
    if owners is None:
        return Sight(lower.expand(1, 1, 1, 1, size, size), None, None)
    whose = pad(owners, -1, size, value=-1).unflatten(1, (-1, size))[:, :, None, None, :, None]
    left = F.pad(whose[:, :-1, :, :, -1:], (0, 0) * 4 + (1, 0), value=-2)
    return Sight(lower & (whose == whose.transpose(-1, -2)), whose == left, whose == whose[..., -1:, :])


@contextlib.contextmanager
def _whole_float32() -> Iterator[None]:
    """Products of all bits: errors grow where many keys are alike."""
    was = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(was)


def unit_inverse(lower: Tensor) -> Tensor:
    """(I + A)^-1 of strictly lower triangular A (..., L, L), L being 16 times a power of two or less than that."""
    size = lower.shape[-1]
    if size <= LEAST:
        eye = torch.eye(size, dtype=lower.dtype, device=lower.device)
        power, inverse = -lower, eye - lower
        for _ in range((size - 1).bit_length() - 1):
            power = power @ power
            inverse = inverse + inverse @ power
        return inverse
    half = size // 2
    first, last = unit_inverse(torch.stack((lower[..., :half, :half], lower[..., half:, half:]))).unbind(0)
    corner = last @ (lower[..., half:, :half] @ first)
    return torch.cat((F.pad(first, (0, half)), torch.cat((-corner, last), dim=-1)), dim=-2)


class _UnitInverse(torch.autograd.Function):
    """`unit_inverse`, whose gradient takes two products."""

    @staticmethod
    def forward(ctx: Any, lower: Tensor) -> Tensor:
        with _whole_float32():
            inverse = unit_inverse(lower)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        turned = inverse.transpose(-1, -2)
        gradient: Tensor = -(turned @ grads[0] @ turned)
        return gradient


def delta_rule(q: Tensor, k: Tensor, v: Tensor, write: Tensor, log_decay: Tensor, seen: Sight) -> Tensor:
    """S = decay S; S = S + k (write (v - k S))^T; out = q S, from nothing at the first token of each owner.

    Args:
        q, k: (B, S, key heads, key_dim), normed and scaled.
        v: (B, S, value heads, value_dim); so many of them in a row share a key head.
        write, log_decay: (B, S, value heads).
        seen: of rows of S tokens.

    Returns:
        (B, S, value heads, value_dim).
    """
    length, key_heads, size = q.shape[1], q.shape[2], seen.within.shape[-1]

    def in_chunks(x: Tensor) -> Tensor:
        """(B, S, heads, D) -> (B, N, key heads, heads of each, L, D)"""
        chunks = pad(x, -3, size).unflatten(1, (-1, size)).transpose(2, 3)
        by_key_head: Tensor = chunks.unflatten(2, (key_heads, -1)).contiguous()
        return by_key_head

    q, k, v = in_chunks(q), in_chunks(k), in_chunks(v)
    write, log_decay = (in_chunks(x[..., None]) for x in (write, log_decay))
    past = log_decay.cumsum(dim=-2)
    decay = (past - past.transpose(-1, -2)).masked_fill(~seen.within, -torch.inf).exp()  # (.., L, L)
    since, until = past.exp(), (past[..., -1:, :] - past).exp()
    kept = since[..., -1:, :]
    if seen.before is not None and seen.behind is not None:
        since, until = since * seen.before, until * seen.behind
        kept = since[..., -1:, :]
    turned = k.transpose(-1, -2)
    known = ((k @ turned) * (decay * write)).tril(-1)
    solved: Tensor = _UnitInverse.apply(known)  # type: ignore[no-untyped-call]
    values, keys = solved @ (write * v), solved @ (write * since * k)
    states, written = _scan(values, keys, (k * until).transpose(-1, -2), kept)
    out = (q * since) @ states + ((q @ turned) * decay) @ written
    return out.flatten(2, 3).transpose(2, 3).flatten(1, 2)[:, :length]


def _scan(values: Tensor, keys: Tensor, turned: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The states (.., key_dim, value_dim) before each chunk, and what its rows write (.., L, value_dim)."""
    batch, heads = values.shape[0], values.shape[2:4]
    parts = (x.transpose(0, 1).flatten(1, 3).unbind(0) for x in (values, keys, turned, kept))
    state = values.new_zeros(batch * heads.numel(), keys.shape[-1], values.shape[-1])
    states, written = [], []
    for value, key, back, keep in zip(*parts, strict=True):
        states.append(state)
        written.append(torch.baddbmm(value, key, state, alpha=-1))
        state = torch.baddbmm(state * keep, back, written[-1])
    before, rows = (torch.stack(x).unflatten(1, (batch, *heads)).transpose(0, 1) for x in (states, written))
    return before, rows

"""The gated delta rule in chunks of positions, with gradients: products of batches of matrices, and one short loop over chunks.

Within a chunk the rows that are written solve a triangular system (Yang et al., "Gated Delta Networks: Improving Mamba2 with
Delta Rule", 2024): what a row writes is its value without what the rows before it have left under its key.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 128
LEAST = 16
"""Size of the triangles that are inverted by powers: of larger ones the powers outgrow float32."""


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
    corner = -(last @ (lower[..., half:, :half] @ first))
    return torch.cat((F.pad(first, (0, half)), torch.cat((corner, last), dim=-1)), dim=-2)


class _UnitInverse(torch.autograd.Function):
    """`unit_inverse`, whose gradient takes two products."""

    @staticmethod
    def forward(ctx: Any, lower: Tensor) -> Tensor:
        inverse = unit_inverse(lower)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        turned = inverse.transpose(-1, -2)
        return -(turned @ grads[0] @ turned)


def in_chunks(x: Tensor, size: int) -> Tensor:
    """x (B, S, heads, ...) as (B, chunks, heads, size, ...), zero behind the last position."""
    padded = F.pad(x, (0, 0) * (x.ndim - 2) + (0, -x.shape[1] % size))
    return padded.unflatten(1, (-1, size)).transpose(2, 3)


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, write: Tensor, log_decay: Tensor, owners: Tensor | None, *, size: int = CHUNK
) -> Tensor:
    """S = decay S; S = S + k (write (v - k S))^T; out = q S, from nothing at the first token of each owner.

    Args:
        q, k: (B, S, heads, key_dim), normed and scaled.
        v: (B, S, heads, value_dim).
        write, log_decay: (B, S, heads).
        owners: (B, S) int64, the tokens of each side by side; None: a row has one.
        size: positions of a chunk, a power of two.

    Returns:
        (B, S, heads, value_dim).
    """
    length = write.shape[1]
    q, k, v = (in_chunks(x, size) for x in (q, k, v))
    write, log_decay = (in_chunks(x[..., None], size) for x in (write, log_decay))
    past = log_decay.cumsum(dim=-2)  # (B, N, heads, L, 1)
    seen = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
    fresh = ends = None
    if owners is not None:
        whose = F.pad(owners, (0, -length % size), value=-1).unflatten(1, (-1, size))[:, :, None]  # (B, N, 1, L)
        seen = seen & (whose[..., :, None] == whose[..., None, :])
        left = F.pad(whose[:, :-1, :, -1:], (0, 0, 0, 0, 1, 0), value=-2)  # the owner of the state that comes in
        fresh, ends = (whose == left)[..., None], (whose == whose[..., -1:])[..., None]
    decay = (past - past.transpose(-1, -2)).masked_fill(~seen, -torch.inf).exp()  # (B, N, heads, L, L)
    known = (k @ k.transpose(-1, -2)) * decay * write
    solved: Tensor = _UnitInverse.apply(known.tril(-1))  # type: ignore[no-untyped-call]
    since, until = past.exp(), (past[..., -1:, :] - past).exp()
    kept = since[..., -1:, :]
    if fresh is not None and ends is not None:
        since, until = since * fresh, until * ends
        kept = kept * fresh[..., -1:, :]
    values, keys = solved @ (write * v), solved @ (write * since * k)
    states, written = _scan(values, keys, (k * until).transpose(-1, -2), kept)
    out = (q * since) @ states + ((q @ k.transpose(-1, -2)) * decay) @ written
    return out.transpose(2, 3).flatten(1, 2)[:, :length]


def _scan(values: Tensor, keys: Tensor, turned: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The states (B, N, heads, key_dim, value_dim) before each chunk, and what its rows write (B, N, heads, L, value_dim)."""
    batch, heads = values.shape[0], values.shape[2]
    parts = (x.transpose(0, 1).flatten(1, 2).unbind(0) for x in (values, keys, turned, kept))
    state = values.new_zeros(batch * heads, keys.shape[-1], values.shape[-1])
    states, written = [], []
    for value, key, back, keep in zip(*parts, strict=True):
        states.append(state)
        written.append(torch.baddbmm(value, key, state, alpha=-1))
        state = torch.baddbmm(state * keep, back, written[-1])
    stacked = (torch.stack(x).unflatten(1, (batch, heads)).transpose(0, 1) for x in (states, written))
    before, rows = stacked
    return before, rows

"""The two FP8 formats of the embedded models, as roundings that a forward pass makes and as tensors that a checkpoint holds."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

FP8_MAX = 448.0
BLOCK = 128
"""Side of a block of weights and width of a group of activations, in the block format."""


def quantize(x: Tensor, *, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x ~ q * s with one scale per row: q (..., K) float8_e4m3fn, s (..., 1) scale_dtype; x (..., K) any float."""
    x = x.float()
    scale = (x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-10) / FP8_MAX).to(scale_dtype)
    return (x / scale.float()).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scale


def in_blocks(w: Tensor) -> Tensor:
    """w (..., N, K) as (..., blocks of rows, rows of a block, blocks of columns, columns of a block), zero beyond its ends."""
    rows, columns = (min(BLOCK, size) for size in w.shape[-2:])
    short = (0, -w.shape[-1] % columns, 0, -w.shape[-2] % rows)
    padded = F.pad(w, short) if any(short) else w
    blocks: Tensor = padded.unflatten(-1, (-1, columns)).unflatten(-3, (-1, rows))
    return blocks


def _block_codes(w: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and bf16 scales as `in_blocks` lays w out."""
    blocks = in_blocks(w.float())
    largest = torch.linalg.vector_norm(blocks, ord=torch.inf, dim=(-3, -1), keepdim=True)
    scale = (largest.clamp_min(1e-10) / FP8_MAX).bfloat16()
    # a scale that was rounded down leaves at most 448.9, of which the nearest code is that of 448
    return (blocks / scale.float()).to(torch.float8_e4m3fn), scale


def quantize_blocks(w: Tensor) -> tuple[Tensor, Tensor]:
    """w ~ q * s with one scale per block: q (..., N, K) float8_e4m3fn, s (..., ceil(N / 128), ceil(K / 128)) bf16."""
    rows, columns = w.shape[-2:]
    codes, scale = _block_codes(w)
    return codes.flatten(-4, -3).flatten(-2)[..., :rows, :columns].contiguous(), scale[..., 0, :, 0].contiguous()


def dequantize_blocks(q: Tensor, scale: Tensor) -> Tensor:
    """q (..., N, K) times the scale (..., ceil(N / 128), ceil(K / 128)) of its block: (..., N, K) float32."""
    rows, columns = q.shape[-2:]
    every = scale.float().repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)
    return q.float() * every[..., :rows, :columns]


class _Passed(torch.autograd.Function):
    """`rounded` on the way forward; the gradient goes to x unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def _passed(x: Tensor, rounded: Tensor) -> Tensor:
    out: Tensor = _Passed.apply(x, rounded.to(x.dtype))  # type: ignore[no-untyped-call]
    return out


class Rounding(Protocol):
    """What is left of weights and activations."""

    def weight(self, w: Tensor) -> Tensor:
        """w (..., N, K) as the checkpoint stores it."""
        ...

    def activation(self, x: Tensor) -> Tensor:
        """x (..., K) as inference rounds it for each token."""
        ...


class Channels:
    """Weights with a bf16 scale per output channel, activations with a float32 scale per token."""

    def weight(self, w: Tensor) -> Tensor:
        """See `Rounding`."""
        with torch.no_grad():
            q, scale = quantize(w, scale_dtype=torch.bfloat16)
            rounded = q.float() * scale.float()
        return _passed(w, rounded)

    def activation(self, x: Tensor) -> Tensor:
        """See `Rounding`."""
        with torch.no_grad():
            q, scale = quantize(x, scale_dtype=torch.float32)
            rounded = q.float() * scale
        return _passed(x, rounded)


class Blocks:
    """Weights with a bf16 scale per 128 x 128, activations with a float32 scale per token and 128 columns."""

    def weight(self, w: Tensor) -> Tensor:
        """See `Rounding`."""
        rows, columns = w.shape[-2:]
        with torch.no_grad():
            codes, scale = _block_codes(w)
            rounded = (codes.float() * scale.float()).flatten(-4, -3).flatten(-2)[..., :rows, :columns]
        return _passed(w, rounded)

    def activation(self, x: Tensor) -> Tensor:
        """See `Rounding`."""
        width = x.shape[-1]
        with torch.no_grad():
            group, rows = min(BLOCK, width), x.float()
            rows = F.pad(rows, (0, -width % group)) if width % group else rows
            groups = rows.unflatten(-1, (-1, group))
            largest = torch.linalg.vector_norm(groups, ord=torch.inf, dim=-1, keepdim=True)
            scale = largest.clamp_min(1e-10) / FP8_MAX
            rounded = ((groups / scale).to(torch.float8_e4m3fn).float() * scale).flatten(-2)[..., :width]
        return _passed(x, rounded)

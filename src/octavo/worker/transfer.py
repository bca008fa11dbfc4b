"""Device to host in one copy."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def to_host(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors on the CPU, brought there together: one copy, one wait.

    Args:
        tensors: bool, int64 or float32, any shape, all on one device.

    Returns:
        In the same order, with the same shapes, dtypes and bits.
    """
    if not tensors:
        return []
    packed = torch.cat([_to_int64(tensor).flatten() for tensor in tensors]).cpu()
    parts = torch.split(packed, [tensor.numel() for tensor in tensors])
    return [_from_int64(part, like).view(like.shape) for part, like in zip(parts, tensors, strict=True)]


def _to_int64(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.contiguous().view(torch.int32) if tensor.dtype == torch.float32 else tensor).long()


def _from_int64(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.int().view(torch.float32) if like.dtype == torch.float32 else values.to(like.dtype)

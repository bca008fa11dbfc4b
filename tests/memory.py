"""Buffers between canaries, filled with NaN: what a kernel touches outside or reads unwritten shows."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import torch

MARGIN_BYTES = 1024
CANARY = 0xA5
POISON = 0xFF
"""Every byte of a fresh buffer: NaN in float32, bf16 and FP8 e4m3, -1 in int32."""

T = TypeVar("T")


class Guard:
    """Allocates poisoned tensors with canaries before and after, and checks the canaries.

    >>> guard = Guard(device)
    >>> out = guard.empty((4, 8), torch.bfloat16)
    >>> guard.check()
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: list[tuple[torch.Tensor, int]] = []

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor of `shape` whose bytes are POISON."""
        size = torch.Size(shape).numel() * dtype.itemsize
        buffer = torch.full((MARGIN_BYTES + size + MARGIN_BYTES,), CANARY, dtype=torch.uint8, device=self._device)
        self._buffers.append((buffer, size))
        inner = buffer[MARGIN_BYTES : MARGIN_BYTES + size]
        inner.fill_(0 if dtype is torch.bool else POISON)
        return inner.view(dtype).reshape(shape)

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` on the guard's device, between canaries."""
        inner = self.empty(tuple(tensor.shape), tensor.dtype)
        inner.copy_(tensor)
        return inner

    def rebuild(self, value: T) -> T:
        """A dataclass of tensors (nested ones too) with every tensor replaced by a poisoned one of its shape."""
        made: T = self._map(value, lambda tensor: self.empty(tuple(tensor.shape), tensor.dtype))
        return made

    def rebuild_copy(self, value: T) -> T:
        """A dataclass of tensors with every tensor copied between canaries."""
        copied: T = self._map(value, self.copy)
        return copied

    def _map(self, value: Any, make: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return make(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            parts = {field.name: self._map(getattr(value, field.name), make) for field in dataclasses.fields(value)}
            return type(value)(**parts)
        return value

    def check(self) -> None:
        """Fail if a canary of any buffer was written."""
        for number, (buffer, size) in enumerate(self._buffers):
            before, after = buffer[:MARGIN_BYTES], buffer[MARGIN_BYTES + size :]
            assert bool((before == CANARY).all()), f"buffer {number}: written before its start"
            assert bool((after == CANARY).all()), f"buffer {number}: written past its end"

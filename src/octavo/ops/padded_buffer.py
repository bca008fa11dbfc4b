"""Device memory of a fixed size that steps of any size are put in, as graphs need it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

ALIGNMENT = 8
"""Bytes: any element may begin at a multiple of them."""


class PaddedBuffer:
    """A tensor `device` of `shape` on the device; rows that a step does not use hold `filler`."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, filler: int) -> None:
        self.device = torch.full(shape, filler, dtype=dtype, device=device)
        self.filler = filler
        self.row_bytes = math.prod(shape[1:]) * self.device.element_size()

    def rows(self, data: torch.Tensor) -> torch.Tensor:
        """(n, ...) of the buffer's dtype from n * `row_bytes` bytes (uint8): the same memory."""
        return data.view(self.device.dtype).view(-1, *self.device.shape[1:])


class Filling(NamedTuple):
    """What the first rows of a buffer are set to."""

    buffer: PaddedBuffer
    values: torch.Tensor
    """(n, ...) on the host, of the buffer's dtype; read."""
    length: int
    """To set, n or more: to `values`, and where those end to the filler."""


def fill(fillings: Sequence[Filling]) -> None:
    """Set the first rows of some buffers of one device by one copy from the host, behind what the device has still to do."""
    sizes = [length * buffer.row_bytes for buffer, _, length in fillings]
    firsts = [0, *itertools.accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)]
    device = fillings[0].buffer.device.device
    packed = torch.empty(firsts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    for (buffer, values, _), first, size in zip(fillings, firsts, sizes, strict=False):
        rows = buffer.rows(packed[first : first + size])
        rows[: len(values)] = values
        rows[len(values) :] = buffer.filler
    there = packed.to(device, non_blocking=True)
    for (buffer, _, length), first, size in zip(fillings, firsts, sizes, strict=False):
        buffer.device[:length].copy_(buffer.rows(there[first : first + size]))

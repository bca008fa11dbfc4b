"""Device memory of a fixed size that steps of any size are put in, as graphs need it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

ALIGNMENT = 8
"""Bytes: any element may begin at a multiple of them."""


class PaddedBuffer:
    """A tensor `device` of `shape` on the device; rows that a step does not use hold `filler`."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, filler: int) -> None:
        self.device = torch.full(shape, filler, dtype=dtype, device=device)
        self.filler = filler
        self._dtype = torch.empty(0, dtype=dtype).numpy().dtype
        self.row_bytes = math.prod(shape[1:]) * self.device.element_size()

    def pack(self, values: torch.Tensor, memory: np.ndarray) -> None:
        """Put `values`, and behind them the filler, in `memory`: n * `row_bytes` bytes (uint8), written.

        Raises:
            ValueError: there are more values than fit.
        """
        # by NumPy, whose views cost a fourth of PyTorch's
        given, rows = values.numpy(), memory.view(self._dtype).reshape(-1, *self.device.shape[1:])
        if len(given) > len(rows):
            raise ValueError(f"{len(given)} rows do not fit in {len(rows)}")
        rows[: len(given)] = given
        rows[len(given) :] = self.filler


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
    memory = packed.numpy()
    for (buffer, values, _), first, size in zip(fillings, firsts, sizes, strict=False):
        buffer.pack(values, memory[first : first + size])
    there = packed.to(device, non_blocking=True)
    sources = [there[first : first + size].view(torch.int32) for first, size in zip(firsts, sizes, strict=False)]
    targets = [buffer.device[:length].view(-1).view(torch.int32) for buffer, _, length in fillings]
    # one kernel on a GPU: a copy for each buffer would take the host a tenth of a millisecond
    torch._foreach_copy_(targets, sources)

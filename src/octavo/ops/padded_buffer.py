"""Device memory of a fixed size that steps of any size are put in, as graphs need it."""

from __future__ import annotations

import torch

from octavo.ops.upload import upload


class PaddedBuffer:
    """A tensor `device` of `shape` on the device; rows that a step does not use hold `filler`."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, filler: int) -> None:
        self.device = torch.full(shape, filler, dtype=dtype, device=device)
        self.filler = filler

    def fill(self, values: torch.Tensor, count: int) -> None:
        """Set the first `count` rows, behind what the device has still to do: to `values`, and where those end to the
        filler.

        Args:
            values: (n, ...) on the host, n at most `count`; read.
            count: rows to set.
        """
        if len(values) < count:
            rest = values.new_full((count - len(values), *values.shape[1:]), self.filler)
            values = torch.cat((values, rest))
        self.device[:count].copy_(upload(values, self.device.device), non_blocking=True)

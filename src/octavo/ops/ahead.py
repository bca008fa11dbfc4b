"""Weights that a later kernel reads, asked for by a product whose own have come."""

from __future__ import annotations

import dataclasses

import torch

MOST_BYTES = 24 * 2**20
"""To be asked for: half of an H200's second cache, which holds what the kernels between read too."""
UNIT = 16
"""Bytes of which a part that is asked for is a multiple, as is its address (PTX ISA, `cp.async.bulk.prefetch`)."""


@dataclasses.dataclass(frozen=True)
class Ahead:
    """The first bytes of a matrix that a kernel behind a product reads, asked for where the product has `fewest` to `most` rows.

    A product of few rows, and attention behind it, leave memory idle. What they ask for lies in the second cache when it is read; nothing is
    computed with it and nothing waits for it.
    """

    data: torch.Tensor
    """(bytes,) uint8, on the product's device."""
    fewest: int = 1
    most: int | None = None

    @classmethod
    def of(cls, matrix: torch.Tensor, *, fewest: int = 1, most: int | None = None) -> Ahead:
        """The first bytes of `matrix`, contiguous, of any dtype, in whole units: a view."""
        data = matrix.view(-1).view(torch.uint8)
        first = -data.data_ptr() % UNIT
        size = min(len(data) - first, MOST_BYTES) // UNIT * UNIT
        return cls(data[first : first + size], fewest, most)

    def bytes_for(self, rows: int) -> int:
        """To be asked for by a product of so many rows."""
        return len(self.data) if self.fewest <= rows and (self.most is None or rows <= self.most) else 0

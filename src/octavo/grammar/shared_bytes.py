"""Rows as bytes of which many are the same: the masks of a batch are kilobytes each, and few of them differ."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

FACTOR = 0x9E3779B1
"""2^32 divided by the golden ratio: an odd number whose multiples differ in many bits."""


def shared_bytes(rows: npt.NDArray[np.int32], size: int) -> list[bytes]:
    """The first `size` bytes of each of `rows` (R, W); those that are equal are one object.

    Only rows of equal weighted sum are compared: to find the sum of a row takes a fifth of the time of hashing it.
    """
    first: dict[int, bytes] = {}
    others: dict[bytes, bytes] = {}
    sums = np.einsum("ij,j->i", rows, _factors(rows.shape[1])).tolist()
    made = []
    for row, total in zip(rows.view(np.uint8)[:, :size], sums, strict=True):
        own = row.tobytes()
        kept = first.setdefault(total, own)
        made.append(kept if kept == own else others.setdefault(own, own))
    return made


@functools.lru_cache(maxsize=8)
def _factors(count: int) -> npt.NDArray[np.int32]:
    """(count,) int32, odd."""
    return (np.arange(1, count + 1, dtype=np.uint32) * np.uint32(FACTOR) | np.uint32(1)).view(np.int32)

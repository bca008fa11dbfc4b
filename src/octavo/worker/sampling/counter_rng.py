"""Random numbers that depend on (seed, position) and on nothing else.

The number for a position is output `position` of the SplitMix64 generator (Steele, Lea and Flood, 2014) whose state
starts at the mixed seed. It is computed in 64-bit integers on the host: the same for every device, batch and step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def uniform(seeds: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float64]:
    """(R,) float64 in [0, 1), multiples of 2^-53: one number per row.

    Args:
        seeds: (R) signed 64-bit integers.
        positions: (R) positions in the request of the tokens to be sampled.
    """
    state = _mix(np.array(seeds, dtype=np.int64).view(np.uint64))
    hashed = _mix(state + np.array(positions, dtype=np.uint64) * _GAMMA)
    return (hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's output function: a bijection of 64-bit integers; products wrap."""
    value = (value ^ (value >> np.uint64(30))) * _FIRST
    value = (value ^ (value >> np.uint64(27))) * _SECOND
    return value ^ (value >> np.uint64(31))

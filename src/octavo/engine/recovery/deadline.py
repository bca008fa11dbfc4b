"""How long a step may take before its worker counts as hung."""

from __future__ import annotations

from collections import deque

FACTOR = 10
"""A step may take this many times as long as the slowest one known."""
RECENT = 256
"""Steps that are remembered: one that compiled something must not count for ever."""


class StepDeadline:
    """max(floor, FACTOR x the slowest of the recent steps and of the largest step, as timed at the start).

    Args:
        floor_s: seconds that every step is given.
    """

    def __init__(self, floor_s: float) -> None:
        self._floor_s = floor_s
        self._largest_s = 0.0
        self._recent_s: deque[float] = deque(maxlen=RECENT)

    def on_start(self, largest_s: float) -> None:
        """A worker started; its largest steps took `largest_s` seconds, or 0 if it did not try them again."""
        self._largest_s = max(self._largest_s, largest_s)

    def on_step(self, seconds: float) -> None:
        """A step was done in `seconds`."""
        self._recent_s.append(seconds)

    @property
    def seconds(self) -> float:
        """Says how many seconds the next step is given."""
        return max(self._floor_s, FACTOR * max(self._largest_s, *self._recent_s, 0.0))

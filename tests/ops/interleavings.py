"""What models of kernels in random interleavings share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

MOVES = 100_000
"""Of a run, which takes some thousands where nobody waits for ever."""


def interleave(partitions: dict[str, Iterator[None]], land: Callable[[], None], drawn: random.Random) -> None:
    """Take drawn moves of `partitions`, each at a drawn speed, and have copies `land` between them, until all partitions have ended.

    Raises:
        AssertionError: something goes wrong in a partition, or nothing goes on.
    """
    left: dict[str, Iterator[None]] = dict(partitions)
    speeds = {name: drawn.choice((1, 1, 5, 30)) for name in (*left, "copies")}
    for _ in range(MOVES):
        names = [*left, "copies"]
        [name] = drawn.choices(names, [speeds[each] for each in names])
        if name == "copies":
            land()
        elif next(left[name], "ended") == "ended":
            del left[name]
            if not left:
                return
    raise AssertionError(f"stuck: {list(left)}")


class Barrier:
    """An mbarrier as the device has it: a phase ends when all arrivals and all announced copies are there, and a wait knows its parity alone."""

    def __init__(self, arrivals: int) -> None:
        self._arrivals = self._pending = arrivals
        self._copies = self._phase = 0

    def arrive(self) -> None:
        assert self._pending > 0, "more arrivals than a phase has"
        self._pending -= 1
        self._settle()

    def expect(self, copies: int) -> None:
        self._copies += copies
        self.arrive()

    def land(self) -> None:
        self._copies -= 1
        self._settle()

    def passes(self, parity: int) -> bool:
        """Whether a wait for `parity` ends: the last phase that ended has it; a fresh barrier's last had 1."""
        return (self._phase - 1) % 2 == parity

    def _settle(self) -> None:
        if self._pending == 0 and self._copies == 0:
            self._phase += 1
            self._pending = self._arrivals

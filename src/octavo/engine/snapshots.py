"""Who holds which snapshot of recurrent states: what lets a request go on behind a cached prefix."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo.engine.prefix import Entry


class SnapshotPool:
    """Snapshots 0 .. count - 1, each free, taken by a running sequence, or kept at an entry of the prefix index."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count - 1, -1, -1))
        self._kept: OrderedDict[int, Entry] = OrderedDict()
        """Least recently used first."""
        self._count = count

    def take(self, pinned: Collection[int]) -> int | None:
        """A snapshot to be written, the least recently used one if none is free; None if all others are taken or `pinned`."""
        if self._free:
            return self._free.pop()
        snapshot = next((each for each in self._kept if each not in pinned), None)
        if snapshot is not None:
            self._kept.pop(snapshot).snapshot = None
        return snapshot

    def keep(self, snapshot: int, entry: Entry) -> None:
        """Keep one that was taken, and is written, at `entry`; if that has one already, it becomes free."""
        if entry.snapshot is not None:
            self.give_back(snapshot)
            return
        entry.snapshot = snapshot
        self._kept[snapshot] = entry

    def use(self, snapshot: int) -> None:
        """Note that one that is kept is gone on from."""
        self._kept.move_to_end(snapshot)

    def give_back(self, snapshot: int) -> None:
        """One that was taken becomes free."""
        self._free.append(snapshot)

    def forget(self, entry: Entry) -> None:
        """`entry` leaves the prefix index: what is kept there becomes free."""
        if entry.snapshot is not None:
            del self._kept[entry.snapshot]
            self._free.append(entry.snapshot)
            entry.snapshot = None

    def check_invariants(self, taken: Iterable[int]) -> None:
        """Assert exact accounting, `taken` being those of all running sequences."""
        every = [*self._free, *self._kept, *taken]
        assert sorted(every) == list(range(self._count)), "a snapshot is lost, or held twice"
        assert all(entry.snapshot == snapshot for snapshot, entry in self._kept.items())

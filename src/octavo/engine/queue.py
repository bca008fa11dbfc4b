"""The sequences that wait: those of the lowest priority first, and first come, first served among equals."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from octavo.engine.sequence import Sequence


class Queue:
    """Sequences by request id, in the order in which they are to start. Adding and removing take no time that grows with it,
    unless there are many priorities."""

    def __init__(self) -> None:
        self._by_priority: dict[int, OrderedDict[str, Sequence]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_priority.values()))

    def __bool__(self) -> bool:
        return bool(self._by_priority)

    def __iter__(self) -> Iterator[Sequence]:
        for priority in sorted(self._by_priority):
            yield from self._by_priority[priority].values()

    @property
    def first(self) -> Sequence:
        """The next to start; there must be one."""
        return next(iter(self._by_priority[min(self._by_priority)].values()))

    def add(self, sequence: Sequence) -> None:
        """Put it behind its equals."""
        self._by_priority.setdefault(sequence.priority, OrderedDict())[sequence.request_id] = sequence

    def put_first(self, sequence: Sequence) -> None:
        """Put it before its equals, in the queue already or not."""
        self.add(sequence)
        self._by_priority[sequence.priority].move_to_end(sequence.request_id, last=False)

    def remove(self, sequence: Sequence) -> None:
        """Take it out, if it is in."""
        equals = self._by_priority.get(sequence.priority)
        if equals is not None:
            equals.pop(sequence.request_id, None)
            if not equals:
                del self._by_priority[sequence.priority]

    def clear(self) -> None:
        self._by_priority.clear()

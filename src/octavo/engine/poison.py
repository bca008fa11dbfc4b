"""Finds the requests that kill every worker they run on.

A request in the steps that a worker died with is a suspect until it gets past the place where it was then. If a worker
dies under a suspect once more, the requests of those steps are run apart, in sets that a search chooses, until a smallest set is
found that kills: usually one request. A set has survived when each of its requests has got past its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Generator, Mapping, Sequence

STRIKES = 2
"""Deaths in a row after which requests are run apart."""

Search = Generator[list[str], bool, list[str]]
"""Yields sets of requests to try, is sent whether the worker died, and returns those to blame."""


class _Innocent(Exception):
    """The suspects together do not kill."""


def find_killers(suspects: Sequence[str]) -> Search:
    """A smallest set of `suspects` that kills the worker, each of its members being needed; empty if there is none.

    Halves, as in U. Junker, QuickXplain (AAAI 2004): one killer among n costs about log2(n) deaths. What contains a set
    that killed kills, and what is contained in one that did not, does not; so no such set is tried.
    """
    deadly: list[frozenset[str]] = []
    harmless: list[frozenset[str]] = []

    def kills(group: list[str]) -> Generator[list[str], bool, bool]:
        members = frozenset(group)
        if any(known <= members for known in deadly):
            return True
        if any(members <= known for known in harmless):
            return False
        died = yield group
        (deadly if died else harmless).append(members)
        return died

    def smallest(background: list[str], grown: bool, rest: list[str]) -> Search:
        """What of `rest` is needed beside `background`; `grown`: that alone has not been tried yet."""
        if grown and (yield from kills(background)):
            return []
        if len(rest) == 1:
            if not (yield from kills(background + rest)):
                raise _Innocent
            return rest
        half = len(rest) // 2
        late = yield from smallest(background + rest[:half], True, rest[half:])
        early = yield from smallest(background + late, bool(late), rest[:half])
        return early + late

    try:
        return (yield from smallest([], False, list(suspects)))
    except _Innocent:
        return []


class Hunt:
    """Suspects are run apart.

    Args:
        places: suspect -> position that it must get past to show that it does not kill.
    """

    def __init__(self, places: Mapping[str, int]) -> None:
        self._places = places
        self._search = find_killers(list(places))
        self.group = next(self._search)
        """Those that run now."""
        self.pending = set(self.group)
        """Those of them that have not got past their place."""

    def on_step(self, ends: Mapping[str, int]) -> None:
        """A step gave its result: request -> where its chunk ended."""
        self.pending = {each for each in self.pending if ends.get(each, -1) < self._places[each]}

    def answer(self, died: bool) -> list[str] | None:
        """Say what became of the group. Returns those to blame once they are known, maybe none; else None."""
        try:
            self.group = self._search.send(died)
        except StopIteration as end:
            killers: list[str] = end.value
            return killers
        self.pending = set(self.group)
        return None


@dataclasses.dataclass
class _Suspicion:
    place: int
    """Where its chunk ended in the first of those steps."""
    strikes: int = 0


class PoisonWatch:
    """Who was in the steps that killed workers."""

    def __init__(self) -> None:
        self.hunt: Hunt | None = None
        self._suspicions: dict[str, _Suspicion] = {}

    @property
    def needs_steps(self) -> bool:
        """`on_step` has something to learn."""
        return bool(self._suspicions)

    def on_death(self, ends: Mapping[str, int], alive: Collection[str]) -> None:
        """A worker died with steps in flight in which requests, of those `alive`, had chunks up to `ends`.

        May start a hunt.
        """
        self._suspicions = {each: known for each, known in self._suspicions.items() if each in alive}
        for request_id, end in ends.items():
            if request_id in alive:
                known = self._suspicions.setdefault(request_id, _Suspicion(end))
                known.place = max(known.place, end)
                known.strikes += 1
        if self.hunt is None and any(self._suspicions[each].strikes >= STRIKES for each in ends if each in alive):
            self.hunt = Hunt({each: self._suspicions[each].place for each in ends if each in alive})

    def on_step(self, ends: Mapping[str, int]) -> None:
        """A step gave its result: who got past the place of its suspicion is none any more."""
        if self.hunt is not None:
            self.hunt.on_step(ends)
        for request_id, end in ends.items():
            known = self._suspicions.get(request_id)
            if known is not None and end >= known.place:
                del self._suspicions[request_id]

    def end_hunt(self, killers: Collection[str]) -> None:
        """The hunt is over; if it found nobody, nobody is a suspect any more."""
        self.hunt = None
        if not killers:
            self._suspicions.clear()

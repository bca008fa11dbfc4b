"""Finds the requests that kill every worker they run on.

A request in the steps that a worker died with is a suspect until it gets past the place where it was then. If a worker
dies under a suspect once more, the requests of those steps are run apart, in sets that a search chooses, until a smallest set is
found that kills: usually one request. A set has survived when each of its requests has got past its place.

A request that kills only in decode gets past its place each time, as it is computed again in prefill. So the last restart
that the budget allows is followed by the same search, in which a request must get `MARGIN` positions further.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Generator, Mapping, Sequence

STRIKES = 2
"""Deaths in a row after which requests are run apart."""

MARGIN = 8
"""Positions past its place after which a request is no suspect in any way."""

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
        places: suspect -> position that it must reach to show that it does not kill.
    """

    def __init__(self, places: Mapping[str, int]) -> None:
        self._places = places
        self._search = find_killers(list(places))
        self.group = next(self._search)
        """Those that run now."""
        self.pending = set(self.group)
        """Those of them that have not reached their place."""
        self.deaths = 0
        """Of workers, under such groups."""

    def on_step(self, ends: Mapping[str, int]) -> None:
        """A step gave its result: request -> where its chunk ended."""
        self.pending = {each for each in self.pending if ends.get(each, -1) < self._places[each]}

    def answer(self, died: bool) -> list[str] | None:
        """Say what became of the group. Returns those to blame once they are known, maybe none; else None."""
        self.deaths += died
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
    """Where its chunk ended in the first of the steps that the last of the workers died with."""
    strikes: int = 0
    """Deaths since it got past its place."""
    deaths: int = 0
    """Deaths since it got well past its place."""


class PoisonWatch:
    """Who was in the steps that killed workers."""

    def __init__(self) -> None:
        self.hunt: Hunt | None = None
        self._suspicions: dict[str, _Suspicion] = {}

    @property
    def needs_steps(self) -> bool:
        """`on_step` has something to learn."""
        return bool(self._suspicions)

    def on_death(self, ends: Mapping[str, int], alive: Collection[str], *, last_restart: bool = False) -> None:
        """A worker died with steps in flight in which requests, of those `alive`, had chunks up to `ends`.

        May start a hunt; does so if this was the `last_restart` that the budget allows.
        """
        self._suspicions = {each: known for each, known in self._suspicions.items() if each in alive}
        seen = [each for each in ends if each in alive]
        for request_id in seen:
            known = self._suspicions.setdefault(request_id, _Suspicion(0))
            known.place = max(known.place, ends[request_id])
            known.strikes += 1
            known.deaths += 1
        if self.hunt is not None:
            return
        again = any(self._suspicions[each].strikes >= STRIKES for each in seen)
        if again or (last_restart and any(self._suspicions[each].deaths > STRIKES for each in seen)):
            margin = 0 if again else MARGIN
            self.hunt = Hunt({each: self._suspicions[each].place + margin for each in seen})

    def on_step(self, ends: Mapping[str, int]) -> None:
        """A step gave its result: who got past the place of its suspicion has no strikes any more."""
        if self.hunt is not None:
            self.hunt.on_step(ends)
        for request_id, end in ends.items():
            known = self._suspicions.get(request_id)
            if known is None or end < known.place:
                continue
            known.strikes = 0
            if end >= known.place + MARGIN:
                del self._suspicions[request_id]

    def end_hunt(self, killers: Collection[str]) -> int:
        """The hunt is over; if it found nobody, nobody is a suspect any more. Returns the deaths before it that it explains."""
        assert self.hunt is not None
        tried, self.hunt = self.hunt.deaths, None
        known = [self._suspicions[each] for each in killers if each in self._suspicions]
        if not killers:
            self._suspicions.clear()
        return max(0, max((each.deaths for each in known), default=0) - tried)

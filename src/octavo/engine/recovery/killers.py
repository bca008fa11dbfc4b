"""Finds the requests that kill every worker they run on.

Only deaths from inside are evidence: whoever kills a worker from outside kills it whatever it runs.

A request in the steps that a worker died with is a suspect until it gets past the position where it was then. If a worker
dies under a suspect once more, the requests of those steps are run apart, in groups that a search chooses, until a smallest
group is found that kills: usually one request. A group has lived when each of its requests has got past its position. Those
found are blamed once the worker has died with them alone as often as set, each time after others have lived, and the last of several
times in small steps: who lives in those, past the last of the steps that a worker died with, is not to blame for what large ones do.
Of several, each then gets `MARGIN` positions further alone than it ever was: beside slower ones it may have run on, and killed there.

A request that kills only in decode gets past its position each time, as it is computed again in prefill. So a death on the last restart
that the budget allows is followed by the same search, in which all get so much further.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Generator, Mapping, Sequence
from typing import NamedTuple

DEATHS_AT_POSITION = 2
"""Deaths in a row after which requests are run apart."""

MARGIN = 8
"""Positions past its own after which a request is no suspect in any way."""

MAX_OTHERS = 8
"""Requests that are no suspects, run for comparison."""


class Trial(NamedTuple):
    """Requests that are to run without others."""

    group: list[str]
    in_small_steps: bool = False
    further: bool = False
    """Each suspect must get `MARGIN` positions past where any step had it, that gave its result or was in flight at a death."""


Search = Generator[Trial, bool, list[str]]
"""Yields what to try, is sent whether the worker died, and returns the requests to blame."""


NOWHERE: Mapping[str, int] = {}
"""No request is anywhere."""


class _Innocent(Exception):
    """The suspects together do not kill."""


class _Trials:
    """Remembers which groups of requests have killed a worker and which have lived."""

    def __init__(self) -> None:
        self.deadly: Counter[frozenset[str]] = Counter()
        """Group -> deaths with it."""
        self.harmless: list[frozenset[str]] = []

    def run(
        self, group: list[str], *, in_small_steps: bool = False, further: bool = False
    ) -> Generator[Trial, bool, bool]:
        """Try `group`; whether the worker died."""
        died = yield Trial(group, in_small_steps, further)
        if died:
            self.deadly[frozenset(group)] += 1
        else:
            self.harmless.append(frozenset(group))
        return died

    def kills(self, group: list[str]) -> Generator[Trial, bool, bool]:
        """Whether `group` kills. What contains a group that killed does, what is contained in one that lived does not."""
        members = frozenset(group)
        if any(known <= members for known in self.deadly):
            return True
        if any(members <= known for known in self.harmless):
            return False
        return (yield from self.run(group))


def find_killers(suspects: Sequence[str], others: Sequence[str] = (), *, deaths: int = 1) -> Search:
    """A smallest group of `suspects` that kills the worker, each of its members being needed; empty if there is none.

    One killer among n costs at most ceil(log2(n)) + 1 deaths to find, and `deaths` to prove.

    Args:
        suspects: of which some may kill.
        others: of which none is thought to.
        deaths: of workers with that group alone, each after others have lived, before it is blamed; the last of several in small steps.
    """
    trials = _Trials()
    try:
        found = yield from _smallest(trials, [], False, list(suspects))
    except _Innocent:
        return []
    return (yield from _proven(trials, found, [list(others), list(suspects)], deaths))


def _smallest(trials: _Trials, background: list[str], grown: bool, rest: list[str]) -> Search:
    """Finds the requests of `rest` that kill only beside `background`; `grown`: `background` alone has not been tried yet.

    Halves, as in U. Junker, QuickXplain (AAAI 2004).
    """
    if grown and (yield from trials.kills(background)):
        return []
    if len(rest) == 1:
        if not (yield from trials.kills(background + rest)):
            raise _Innocent
        return rest
    half = len(rest) // 2
    late = yield from _smallest(trials, background + rest[:half], True, rest[half:])
    early = yield from _smallest(trials, background + late, bool(late), rest[:half])
    return early + late


def _proven(trials: _Trials, group: list[str], others: list[list[str]], deaths: int) -> Search:
    """`group` if the worker dies with it alone as often as asked, and not with less of it; else those who kill, if any.

    Beside slower ones a request runs on past its position, and may kill there. So each of several gets further alone before all are blamed.
    """
    for member in group if len(group) > 1 else []:
        part = [each for each in group if each != member]
        if (yield from trials.kills(part)):
            return (yield from _proven(trials, part, others, deaths))
    while (left := deaths - trials.deadly[frozenset(group)]) > 0:
        yield from _let_others_live(trials, group, others)
        if not (yield from trials.run(group, in_small_steps=left == 1)):
            return []
    for member in group if len(group) > 1 else []:
        if (yield from trials.run([member], further=True)):
            return (yield from _proven(trials, [member], others, deaths))
    return group


def _let_others_live(trials: _Trials, group: list[str], others: list[list[str]]) -> Generator[Trial, bool, None]:
    """Run requests other than `group`, so that it is known that workers live without it.

    Where nobody else is left who does not kill, the steps that a worker runs as it starts have to do.
    """
    lived = sorted(trials.harmless, key=len, reverse=True)
    for candidates in [*(sorted(known) for known in lived), *others]:
        control = [each for each in candidates if each not in group]
        if control and not any(known <= frozenset(control) for known in trials.deadly):
            died = yield from trials.run(control)
            if not died:
                return


class KillerSearch:
    """Suspects are run apart, in one group after the other.

    Args:
        positions: suspect -> position that it must reach to show that it does not kill.
        others: the same of requests that are no suspects, for comparison.
        deaths: see `find_killers`.
        ends: suspect -> where it was in the last of the steps that a worker died with, if further: in small steps it must reach that, to show
            that these are not deadly, whichever of them was.
        further: every trial is, as `Trial.further` says.
    """

    def __init__(
        self,
        positions: Mapping[str, int],
        others: Mapping[str, int],
        deaths: int,
        ends: Mapping[str, int] = NOWHERE,
        *,
        further: bool = False,
    ) -> None:
        self._is_further = further
        self._suspects = frozenset(positions)
        self._positions = {**others, **positions}
        self._ends = {each: max(position, ends.get(each, 0)) for each, position in self._positions.items()}
        self._furthest = dict(self._ends)
        """Where each has been, or was to get when a worker died."""
        self._search = find_killers(list(positions), list(others), deaths=deaths)
        self.trial = next(self._search)
        """Those that run now."""
        self.pending = set(self.trial.group)
        """Those of them that have not reached their position."""
        self.has_lived = False
        """Whether any of them has."""
        self._set_positions()

    def on_step(self, ends: Mapping[str, int]) -> None:
        """A step gave its result: request -> where its chunk ended."""
        self._advance(ends)
        reached = {each for each in self.pending if ends.get(each, -1) >= self._positions[each]}
        self.has_lived = self.has_lived or bool(reached)
        if self.trial.in_small_steps:
            reached = {each for each in reached if ends[each] >= self._ends[each]}
        self.pending -= reached

    def record_trial(self, *, died: bool, last_ends: Mapping[str, int] = NOWHERE) -> list[str] | None:
        """Say what became of the group. Returns those to blame once they are known, maybe none; else None.

        Args:
            last_ends: request -> where its chunk ended in the last of the steps that the worker died with.
        """
        self._advance(last_ends)
        try:
            self.trial = self._search.send(died)
        except StopIteration as end:
            killers: list[str] = end.value
            return killers
        self.pending = set(self.trial.group)
        self.has_lived = False
        self._set_positions()
        return None

    def _set_positions(self) -> None:
        """Where those of the trial must get, if further than before."""
        if self.trial.further or self._is_further:
            for each in self._suspects.intersection(self.trial.group):
                self._positions[each] = self._ends[each] = self._furthest[each] + MARGIN

    def _advance(self, ends: Mapping[str, int]) -> None:
        self._furthest |= {each: max(self._furthest.get(each, 0), end) for each, end in ends.items()}


@dataclasses.dataclass
class _Suspicion:
    position: int
    """Where its chunk ended in the first of the steps that the last of the workers died with."""
    end: int = 0
    """Where it ended in the last of those steps."""
    deaths_at_position: int = 0
    """Deaths since it got past its position."""
    deaths: int = 0
    """Deaths since it got well past its position."""


class SuspectWatch:
    """Remembers which requests were in the steps that killed workers from inside.

    Args:
        deaths: of workers with a request alone before it is blamed.
    """

    def __init__(self, deaths: int) -> None:
        self.search: KillerSearch | None = None
        self._deaths = deaths
        self._suspicions: dict[str, _Suspicion] = {}
        self._before: dict[str, int] = {}
        """Deaths of each suspect when the search began."""
        self._left: set[str] = set()
        """Who was left of several that killed, when others of them had ended."""

    @property
    def needs_steps(self) -> bool:
        """`on_step` has something to learn."""
        return self.search is not None or bool(self._suspicions)

    def on_death(
        self,
        ends: Mapping[str, int],
        alive: Mapping[str, int],
        *,
        last_restart: bool = False,
        last_ends: Mapping[str, int] = NOWHERE,
    ) -> None:
        """A worker died from inside with steps in flight in which requests had chunks up to `ends`.

        May start a search; does so if this was the `last_restart` that the budget allows.

        Args:
            ends: request -> position in the first of the steps that has it.
            alive: every request that has not ended -> its number of tokens.
            last_ends: the same in the last of them.
        """
        self._suspicions = {each: known for each, known in self._suspicions.items() if each in alive}
        self._left &= alive.keys()
        seen = [each for each in ends if each in alive]
        for request_id in seen:
            known = self._suspicions.setdefault(request_id, _Suspicion(0))
            known.position = max(known.position, ends[request_id])
            known.end = max(known.position, last_ends.get(request_id, 0))
            known.deaths_at_position += 1
            known.deaths += self.search is None
        if self.search is not None:
            return
        again = any(self._suspicions[each].deaths_at_position >= DEATHS_AT_POSITION for each in seen)
        if again or (last_restart and seen):
            positions = {each: self._suspicions[each].position for each in seen}
            others = [each for each in alive if each not in self._suspicions][:MAX_OTHERS]
            last = {each: self._suspicions[each].end for each in seen}
            self.search = KillerSearch(
                positions, {each: alive[each] for each in others}, self._deaths, last, further=last_restart
            )
            self._before = {each: known.deaths for each, known in self._suspicions.items()}

    def on_step(self, ends: Mapping[str, int]) -> None:
        """A step gave its result: who got past its position is no suspect of the deaths there any more."""
        if self.search is not None:
            self.search.on_step(ends)
        for request_id, end in ends.items():
            known = self._suspicions.get(request_id)
            if known is None or end < known.position:
                continue
            known.deaths_at_position = 0
            if end >= known.position + MARGIN:
                del self._suspicions[request_id]

    def guilty(self, killers: Collection[str], alive: Collection[str]) -> list[str]:
        """Say who of those that a search found is to blame: all, or where some have ended, who is left for the second time.

        Those who are left have no company any more, without which nobody died; they are remembered.
        """
        left = [each for each in killers if each in alive]
        if len(left) == len(killers):
            return left
        again = [each for each in left if each in self._left]
        self._left.update(left)
        return again

    def end_search(self, guilty: Collection[str]) -> int:
        """The search is over; if nobody is guilty, nobody is a suspect any more. Returns the deaths before it that it explains."""
        assert self.search is not None
        self.search = None
        if not guilty:
            self._suspicions.clear()
        explained = max((self._before.get(each, 0) for each in guilty), default=0)
        for known in self._suspicions.values():  # no death is explained twice
            known.deaths = max(0, known.deaths - explained)
        return explained

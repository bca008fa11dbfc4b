"""Requests that kill some steps after their position: alone they get past it, beside slower ones they do not."""

from __future__ import annotations

import dataclasses
import signal

from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.harness import alone, config, finish, request
from octavo.config import EngineConfig
from octavo.engine import Engine, Request
from octavo.engine.recovery.fault_injection import FaultInjector, parse_fault
from octavo.engine.recovery.killers import MARGIN, KillerSearch, SuspectWatch, Trial
from octavo.engine.recovery.supervisor import RestartBudget, Supervisor
from octavo.errors import RequestFailedError, WorkerDiedError
from octavo.messages import StepPlan, StepResult
from octavo.testing.mock_worker import MockSource, MockWorker


@dataclasses.dataclass(frozen=True)
class Killer:
    """Kills with a chunk of one row behind its prompt, at every so many-th position; computed in larger chunks these do no harm."""

    index: int
    every: int
    at_once: bool
    """The worker dies as it is given the step; else behind all results before it."""

    @property
    def seed(self) -> int:
        """Of its request, by which a worker knows it."""
        return self.index + 1


class Killed(MockWorker):
    """Dies of `killer`, whose prompt has `prompt` tokens."""

    def __init__(self, config: EngineConfig, killer: Killer, prompt: int) -> None:
        super().__init__(config)
        self._killer, self._prompt = killer, prompt
        self._doomed = False

    def send(self, plan: StepPlan) -> None:
        self._check_alive()
        seeds = {slot: held.sampling.seed for slot, held in self._slots.items()}
        rows = [chunk for chunk in plan.chunks if chunk.count == 1 and seeds.get(chunk.slot) == self._killer.seed]
        if any(chunk.start >= self._prompt and chunk.start % self._killer.every == 0 for chunk in rows):
            self._doomed = True
        if not self._doomed:
            super().send(plan)
        elif self._killer.at_once:
            self._die()

    def receive(self, timeout_s: float | None) -> StepResult | None:
        if self._doomed and not self._results:
            self._die()
        return super().receive(timeout_s)

    def _die(self) -> None:
        self.die("the decode kernel wrote out of bounds", exit_code=-signal.SIGSEGV)
        self._check_alive()


def blamed(lengths: list[tuple[int, int]], killer: Killer, limits: EngineConfig, priorities: list[int]) -> list[int]:
    """Who fails of requests of so many prompt tokens and tokens at most, while all others get what they get alone."""
    asked: list[Request] = [
        dataclasses.replace(
            request(
                f"r{number}",
                [(number * 7 + i * 3) % 95 for i in range(length)],
                seed=number + 1,
                temperature=1.0,
                max_tokens=most,
            ),
            priority=priority,
        )
        for number, ((length, most), priority) in enumerate(zip(lengths, priorities, strict=True))
    ]
    source = MockSource(limits, lambda _, config: Killed(config, killer, lengths[killer.index][0]))
    engine = Engine(limits, source.start(None), supervisor=Supervisor(source, RestartBudget(10, 600.0)))
    for each in asked:
        engine.add(each)
    outcomes, failed = finish(engine, {}), []
    for number, each in enumerate(asked):
        outcome = outcomes[each.request_id]
        assert not isinstance(outcome.error, WorkerDiedError), "given up"
        if isinstance(outcome.error, RequestFailedError):
            failed.append(number)
        else:
            assert outcome == alone(each, limits)
    return failed


LENGTHS = st.one_of(st.integers(1, 20), st.integers(40, 140), st.integers(100, 700))
ASKED = st.lists(st.tuples(LENGTHS, st.sampled_from([1, 2, 3, 5, 8, 20, 60])), min_size=1, max_size=12)


@given(asked=ASKED, data=st.data())
@example([(696, 60), (5, 20), (573, 1), (113, 5)], (Killer(0, 3, at_once=False), 128, 8, 16, [0, 0, 0, 1]))
@example([(256, 20), (511, 60), (17, 60), (128, 5)], (Killer(2, 3, at_once=False), 160, 2, 16, [0, 1, 0, 0]))
@example([(63, 3), (69, 20), (343, 8), (294, 2)], (Killer(1, 3, at_once=False), 160, 4, 4, [0, 0, 0, 0]))
@example([(1, 1), (1, 5), (20, 60), (101, 60)], (Killer(2, 2, at_once=False), 160, 2, 4, [1, 0, 0, -1]))
@example([(49, 3), (395, 3), (219, 60), (12, 60), (3, 3)], (Killer(3, 2, at_once=False), 128, 4, 16, [0, 1, 1, 0, 0]))
@example(
    [
        (168, 2),
        (132, 8),
        (128, 8),
        (315, 20),
        (434, 5),
        (94, 60),
        (73, 1),
        (87, 8),
        (70, 1),
        (132, 3),
        (16, 20),
        (1, 5),
    ],
    (Killer(5, 2, at_once=False), 128, 4, 4, [0, 1, -1, 0, -1, 0, 0, 1, 1, 1, 0, -1]),
)
@settings(max_examples=150, deadline=None)
def test_nobody_is_blamed_for_having_run_beside_it(asked: list[tuple[int, int]], data: object) -> None:
    if not isinstance(data, tuple):
        draw = data.draw  # type: ignore[attr-defined]
        killer = Killer(draw(st.integers(0, len(asked) - 1)), draw(st.sampled_from([1, 2, 3])), draw(st.booleans()))
        budget, seats = draw(st.sampled_from([100, 128, 160, 256, 512])), draw(st.sampled_from([1, 2, 4, 8]))
        data = (
            killer,
            budget,
            seats,
            draw(st.sampled_from([4, 16])),
            draw(st.lists(st.sampled_from([0, 0, 1, -1]), min_size=len(asked), max_size=len(asked))),
        )
    killer, budget, seats, block_size, priorities = data
    limits = config(
        max_num_batched_tokens=budget, max_num_seqs=seats, block_size=block_size, num_blocks=2500, priorities=True
    )
    assert blamed(asked, killer, limits, priorities) in ([], [killer.index])


def test_each_of_several_gets_further_alone_before_all_are_blamed() -> None:
    """Past where any step had it that was in flight when a worker died."""
    search = KillerSearch({"a": 10, "b": 20}, {}, 1)
    search.on_step({"a": 10})
    assert search.record_trial(died=False) is None
    assert search.trial == Trial(["a", "b"])
    search.on_step({"a": 14})
    assert search.record_trial(died=True, last_ends={"a": 16, "b": 9}) is None
    assert search.trial == Trial(["b"])
    assert search.record_trial(died=False) is None
    assert search.trial == Trial(["a"], further=True)
    search.on_step({"a": 16 + MARGIN - 1})
    assert search.pending == {"a"}
    assert search.record_trial(died=True) == ["a"]


def test_several_are_blamed_who_all_got_further_alone() -> None:
    search = KillerSearch({"a": 10, "b": 20}, {}, 1)
    assert search.record_trial(died=False) is None
    assert search.record_trial(died=True) is None
    assert search.record_trial(died=False) is None
    assert search.trial == Trial(["a"], further=True)
    assert search.record_trial(died=False) is None
    assert search.trial == Trial(["b"], further=True)
    assert search.record_trial(died=False) == ["a", "b"]


def watching(*deaths: dict[str, int], last_restart: bool = False) -> SuspectWatch:
    """Behind deaths with these requests where their chunks ended, of which the last may be that of the last restart."""
    watch = SuspectWatch(2)
    for number, ends in enumerate(deaths, 1):
        watch.on_death(ends, ALIVE, last_restart=last_restart and number == len(deaths))
    return watch


ALIVE = {"a": 100, "b": 100, "c": 100}


def test_steps_are_told_while_a_search_runs() -> None:
    """Whoever got far is no suspect any more, and may still be in a trial."""
    watch = watching({"a": 10}, {"a": 10})
    watch.on_step({"a": 10 + MARGIN})
    assert watch.search is not None
    assert watch.needs_steps


def test_a_search_explains_the_deaths_before_it_once() -> None:
    """Even where its trials have shown that the guilty get past their positions; those within it are not among them."""
    watch = watching({"a": 10, "b": 10}, {"a": 10, "b": 10})
    watch.on_death({"a": 10, "b": 10}, ALIVE)
    watch.on_step({"a": 10 + MARGIN})
    assert watch.end_search(["a"]) == 2
    watch.on_death({"b": 12}, ALIVE)
    assert watch.search is not None, "of b three deaths are known in a row"
    assert watch.end_search(["b"]) == 1, "two have been explained"


def test_the_last_restart_is_followed_by_a_search_in_which_all_get_further() -> None:
    watch = watching({"a": 10, "b": 20}, last_restart=True)
    assert watch.search is not None
    assert watch.search.trial == Trial(["a"])
    watch.on_step({"a": 10 + MARGIN - 1})
    assert watch.search.pending == {"a"}
    watch.on_step({"a": 10 + MARGIN})
    assert watch.search.pending == set()
    assert watch.search.record_trial(died=False) is None
    assert watch.search.trial == Trial(["a", "b"])
    watch.on_step({"a": 10 + MARGIN})
    assert watch.search.pending == {"a", "b"}, "it has been there"


def test_who_is_left_of_several_is_blamed_the_second_time() -> None:
    watch = watching({"a": 10, "b": 10})
    assert watch.guilty(["a", "b"], ALIVE) == ["a", "b"]
    assert watch.guilty(["a", "gone"], ALIVE) == []
    assert watch.guilty(["b", "gone"], ALIVE) == []
    assert watch.guilty(["a", "other"], ALIVE) == ["a"]
    watch.on_death({"b": 10}, {"b": 20})
    assert watch.guilty(["a", "other"], ALIVE) == [], "it had ended"


def test_pair_after_pair_does_not_spend_the_budget() -> None:
    limits = config()
    source = MockSource(limits)
    faults = [parse_fault(f"segfault@request:r{first}+r{first + 1}") for first in range(0, 12, 2)]
    supervisor = Supervisor(source, RestartBudget(4, 600.0))
    engine = Engine(limits, source.start(None), supervisor=supervisor, injector=FaultInjector(faults))
    for first in range(0, 12, 2):
        pair = [request(f"r{first + i}", range(5, 25), seed=i, max_tokens=300, ignore_eos=True) for i in range(2)]
        for each in pair:
            engine.add(each)
        outcomes = finish(engine, {})
        assert {type(outcomes[each.request_id].error) for each in pair} == {RequestFailedError}

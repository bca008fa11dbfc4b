"""Nobody innocent is failed: kills from outside are no evidence, and a request is blamed only for what it repeats alone."""

from __future__ import annotations

import itertools
import math
import random
import signal
from collections.abc import Collection, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.harness import Outcome, alone, collect, config, request
from octavo.config import EngineConfig
from octavo.engine import Engine, Request
from octavo.engine.recovery.fault_injection import FaultInjector, parse_fault
from octavo.engine.recovery.killers import DEATHS_AT_POSITION, find_killers
from octavo.engine.recovery.supervisor import RestartBudget, Supervisor
from octavo.errors import DeathCause, RequestFailedError, WorkerDiedError
from octavo.messages import StepPlan
from octavo.testing.mock_worker import MockSource, MockWorker

OUTSIDE = [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT]
INSIDE = [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL]


def bound(count: int, deaths_before_blame: int) -> int:
    """Deaths from inside that one killer among `count` requests costs at most, as docs/promises.md states."""
    return DEATHS_AT_POSITION + math.ceil(math.log2(count)) + 1 + deaths_before_blame


def build(limits: EngineConfig, killers: Collection[str], restarts: int = 10_000, blame: int = 2) -> Engine:
    source = MockSource(limits)
    supervisor = Supervisor(source, RestartBudget(restarts, 600.0))
    injector = FaultInjector([parse_fault(f"segfault@request:{name}") for name in killers])
    engine = Engine(limits, source.start(None), supervisor=supervisor, injector=injector, deaths_before_blame=blame)
    engine.source = source  # type: ignore[attr-defined]
    return engine


def workers(engine: Engine) -> Sequence[MockWorker]:
    return engine.source.workers  # type: ignore[attr-defined, no-any-return]


def load(count: int) -> list[Request]:
    return [
        request(f"r{i}", range(i, 2 * i + 5), temperature=1.0, seed=i, max_tokens=4 + i % 7, logprobs=i % 3)
        for i in range(count)
    ]


def inside(engine: Engine) -> int:
    """Deaths of workers that nobody killed from outside."""
    return sum(worker._death is not None and worker._death.exit_code == -signal.SIGSEGV for worker in workers(engine))


def run(engine: Engine, asked: Sequence[Request], kills: Sequence[signal.Signals | None]) -> dict[str, Outcome]:
    """Ask all, and before step i kill the worker as `kills[i]` says."""
    outcomes: dict[str, Outcome] = {}
    for each in asked:
        engine.add(each)
    moments = iter(kills)
    for _ in range(200_000):
        if not engine.has_work:
            return outcomes
        killer = next(moments, None)
        if killer is not None:
            workers(engine)[-1].die("killed from outside", exit_code=-killer)
        collect(outcomes, engine.step(0))
        engine.check_invariants()
    raise AssertionError("starved")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_is_killed_from_outside_only_killers_fail_and_all_of_them_soon(data: st.DataObject) -> None:
    limits = config(
        max_num_batched_tokens=data.draw(st.integers(8, 200)),
        max_num_seqs=data.draw(st.integers(1, 16)),
        num_blocks=100,
    )
    asked = load(data.draw(st.integers(1, 16)))
    names = [each.request_id for each in asked]
    killers = data.draw(st.sets(st.sampled_from(names), max_size=3))
    dice, share = random.Random(data.draw(st.integers(0, 10**6))), data.draw(st.sampled_from([0.0, 0.1, 0.5, 0.95]))
    kills = [dice.choice(OUTSIDE) if dice.random() < share else None for _ in range(300)]
    blame = data.draw(st.integers(1, 3))
    engine = build(limits, killers, blame=blame)
    outcomes = run(engine, asked, kills)
    for each in asked:
        outcome, expected = outcomes[each.request_id], alone(each, limits)
        if each.request_id in killers:
            assert isinstance(outcome.error, RequestFailedError), each.request_id
            assert outcome.tokens == expected.tokens[: len(outcome.tokens)]
        else:
            assert outcome == expected, each.request_id
    # while others may kill too, each run for comparison with one of them costs one more
    most = sum(bound(len(asked), blame) + left * (blame + 1) for left in range(len(killers)))
    assert inside(engine) <= most


@pytest.mark.parametrize("killer", OUTSIDE, ids=lambda each: each.name)
@pytest.mark.parametrize("company", [1, 60])
def test_workers_killed_as_soon_as_they_start_cost_nobody_anything(killer: signal.Signals, company: int) -> None:
    limits = config(max_num_seqs=64, num_blocks=400)
    asked = load(company) if company == 1 else [*load(30), *(request(f"s{i}", [i], seed=i) for i in range(30))]
    engine = build(limits, [])
    outcomes = run(engine, asked, [killer, *[None, killer] * 40])
    assert {each.request_id: alone(each, limits) for each in asked} == outcomes
    assert engine.status().finished["error"] == 0


@pytest.mark.parametrize("killer", INSIDE, ids=lambda each: each.name)
def test_what_a_worker_brings_upon_itself_is_evidence(killer: signal.Signals) -> None:
    limits = config()
    source = MockSource(limits, lambda _, config: Fragile(config, killer))
    engine = Engine(limits, source.start(None), supervisor=Supervisor(source, RestartBudget(10, 600.0)))
    bad = request("bad", [3, 4, 5], temperature=1.0, seed=Fragile.SEED, max_tokens=4)
    for each in [*load(6), bad]:
        engine.add(each)
    outcomes: dict[str, Outcome] = {}
    while engine.has_work:
        collect(outcomes, engine.step())
    assert isinstance(outcomes["bad"].error, RequestFailedError)
    assert engine.status().finished["error"] == 1


class Fragile(MockWorker):
    """Dies by `killer` of any request with this seed."""

    SEED = 666

    def __init__(self, config: EngineConfig, killer: signal.Signals) -> None:
        super().__init__(config)
        self._killer = killer

    def send(self, plan: StepPlan) -> None:
        seeds = [admission.sampling.seed for admission in plan.admissions]
        if self.SEED in seeds:
            self.die(f"died by {self._killer.name}", exit_code=-self._killer)
        super().send(plan)


def test_a_spent_budget_says_that_workers_are_killed_and_by_which_signal_and_blames_nobody() -> None:
    limits = config()
    engine = build(limits, [], restarts=4)
    asked = load(12)
    outcomes = run(engine, asked, [signal.SIGKILL, None, signal.SIGTERM, None] * 40)
    assert {type(outcome.error) for outcome in outcomes.values()} == {WorkerDiedError}
    for outcome in outcomes.values():
        assert outcome.error is not None
        assert "killed from outside (SIGKILL, SIGTERM)" in outcome.error.message
        assert "memory" in outcome.error.message


def test_one_request_alone_is_blamed_only_after_it_killed_as_often_as_set() -> None:
    for blame in (1, 2, 5):
        engine = build(config(), ["r0"], blame=blame)
        outcomes = run(engine, load(1), [])
        assert isinstance(outcomes["r0"].error, RequestFailedError)
        assert inside(engine) == DEATHS_AT_POSITION + blame


def test_others_live_between_the_deaths_for_which_one_is_blamed() -> None:
    trials = played(find_killers(["a", "b", "c", "d"], ["o"], deaths=3), lambda group: "a" in group)
    assert trials.pop() == (["a"], None), "the verdict"
    alone_ = [i for i, (group, _died) in enumerate(trials) if group == ["a"]]
    assert len(alone_) == 3
    for early, late in itertools.pairwise(alone_):
        assert any(not died for _group, died in trials[early + 1 : late])


def test_one_that_killed_by_chance_is_let_go_when_it_lives_alone() -> None:
    chance = iter([True, False, False])
    trials = played(find_killers(["a", "b"], deaths=2), lambda group: next(chance))
    assert trials[-1] == ([], None)


def test_a_machine_on_which_everything_dies_is_blamed_on_nobody_who_has_company_that_lives() -> None:
    """Where all die alone, all are killers as far as anybody can tell; where one lives, it is not blamed."""
    trials = played(find_killers(["a", "b", "c"], deaths=2), lambda group: group != ["c"])
    assert "c" not in trials[-1][0]


def test_a_group_is_blamed_only_after_each_of_its_parts_lived() -> None:
    trials = played(find_killers(list("abcdefgh"), deaths=2), lambda group: {"b", "g"} <= set(group))
    assert sorted(trials.pop()[0]) == ["b", "g"]
    for part in ("b", "g"):
        other = {"b": "g", "g": "b"}[part]
        assert any(part in group and other not in group and not died for group, died in trials)
    assert sum(sorted(group) == ["b", "g"] and bool(died) for group, died in trials) == 2


def played(search: object, kills: object) -> list[tuple[list[str], bool | None]]:
    """Every group that `search` tries and what became of it, then those it blames."""
    trials: list[tuple[list[str], bool | None]] = []
    try:
        group = next(search).group  # type: ignore[call-overload]
        while True:
            died = kills(group)  # type: ignore[operator]
            trials.append((list(group), died))
            group = search.send(died).group  # type: ignore[attr-defined]
    except StopIteration as end:
        return [*trials, (end.value, None)]


class Stopped(MockWorker):
    """Never answers, as somebody has stopped its process."""

    @property
    def stopped(self) -> bool:
        return True

    def receive(self, timeout_s: float | None) -> None:
        self._check_alive()


def test_a_worker_that_somebody_stops_does_not_hang_by_itself() -> None:
    limits, now = config(), [0.0]
    source = MockSource(limits, lambda number, config: MockWorker(config) if number else Stopped(config))
    supervisor = Supervisor(source, RestartBudget(10, 600.0), clock=lambda: now[0])
    engine = Engine(limits, source.start(None), supervisor=supervisor, clock=lambda: now[0])
    asked = load(4)
    for each in asked:
        engine.add(each)
    outcomes: dict[str, Outcome] = {}
    while engine.has_work:
        collect(outcomes, engine.step(0))
        now[0] += 10.0
    assert outcomes == {each.request_id: alone(each, limits) for each in asked}
    assert engine.status().restarts == {**dict.fromkeys((each.value for each in DeathCause), 0), "signal": 1}


class DiesAtAPosition(MockWorker):
    """Dies as it computes that position of a request with one of these seeds; one that comes from the prefix cache does no harm."""

    def __init__(self, config: EngineConfig, positions: Mapping[int, int]) -> None:
        super().__init__(config)
        self._positions = positions

    def send(self, plan: StepPlan) -> None:
        seeds = {slot: held.sampling.seed for slot, held in self._slots.items()}
        seeds |= {admission.slot: admission.sampling.seed for admission in plan.admissions}
        for chunk in plan.chunks:
            if self._positions.get(seeds[chunk.slot] or 0, -1) in range(chunk.start, chunk.start + chunk.count):
                self.die("died at a position", exit_code=-signal.SIGSEGV)
        super().send(plan)


def check_company(limits: EngineConfig, asked: list[Request], positions: Mapping[int, int]) -> None:
    """Those without a position in `positions`, which go by seeds, answer as if alone."""
    source = MockSource(limits, lambda _, config: DiesAtAPosition(config, positions))
    engine = Engine(limits, source.start(None), supervisor=Supervisor(source, RestartBudget(10_000, 600.0)))
    engine.source = source  # type: ignore[attr-defined]
    outcomes = run(engine, asked, [])
    for i, each in enumerate(asked):
        assert i in positions or outcomes[each.request_id] == alone(each, limits)


SHARED = [1, 2, 3, 4, 5, 6, 7, 8] * 4


def test_one_who_lives_on_what_others_computed_is_no_evidence_against_them() -> None:
    """r1 kills by its first position, which it finds in the prefix cache in some company."""
    asked = [
        request(f"r{i}", [*SHARED[:4], 20 + i], temperature=1.0, seed=i, max_tokens=made)
        for i, made in enumerate([3, 3, 1, 1])
    ]
    limits = config(block_size=2, num_blocks=30, max_num_seqs=4, max_num_batched_tokens=17)
    check_company(limits, asked, {1: 0, 2: 4})


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_killers_at_positions_that_others_share_bring_blame_on_nobody_else(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 12))
    asked = [
        request(
            f"r{i}",
            [*SHARED[: data.draw(st.integers(4, len(SHARED)))], 20 + i],
            temperature=1.0,
            seed=i,
            max_tokens=data.draw(st.integers(1, 10)),
        )
        for i in range(count)
    ]
    killers = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=2, unique=True))
    limits = config(
        block_size=2,
        num_blocks=data.draw(st.integers(30, 100)),
        max_num_seqs=data.draw(st.integers(1, 6)),
        max_num_batched_tokens=data.draw(st.sampled_from([5, 17, 64])),
    )
    positions = {i: data.draw(st.integers(0, len(asked[i].prompt_token_ids) - 1)) for i in killers}
    check_company(limits, asked, positions)

"""Requests that kill every worker they run on fail alone, after few restarts; the others answer as if alone."""

from __future__ import annotations

import math
import signal
from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.harness import Outcome, alone, collect, config, finish, request
from octavo.config import EngineConfig
from octavo.engine import Engine, Request
from octavo.engine.recovery.fault_injection import FaultInjector, parse_fault
from octavo.engine.recovery.killers import KillerSearch, Trial, find_killers
from octavo.engine.recovery.supervisor import RestartBudget, Supervisor
from octavo.errors import RequestFailedError
from octavo.messages import StepPlan
from octavo.testing.mock_worker import MockSource, MockWorker


def search(suspects: Collection[str], deadly: Collection[Collection[str]]) -> tuple[list[str], int, int]:
    """What the search blames, the deaths and the trials, where each set of `deadly` kills."""
    going = find_killers(list(suspects))
    deaths = trials = 0
    try:
        group = next(going).group
        while True:
            assert len(set(group)) == len(group)
            died = any(set(killers) <= set(group) for killers in deadly)
            deaths += died
            trials += 1
            group = going.send(died).group
    except StopIteration as end:
        return end.value, deaths, trials


@pytest.mark.parametrize("count", [1, 2, 3, 7, 32, 100])
def test_one_killer_is_found_in_log2_deaths(count: int) -> None:
    suspects = [f"r{i}" for i in range(count)]
    for killer in suspects:
        found, deaths, _trials = search(suspects, [[killer]])
        assert found == [killer]
        assert deaths <= math.ceil(math.log2(count)) + 1


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_smallest_killing_set_is_found(data: st.DataObject) -> None:
    suspects = [f"r{i}" for i in range(data.draw(st.integers(1, 40)))]
    sets = st.sets(st.sampled_from(suspects), min_size=1, max_size=3)
    deadly = data.draw(st.lists(sets, min_size=1, max_size=3))
    found, deaths, _trials = search(suspects, deadly)
    assert any(set(found) == killers for killers in deadly)
    assert deaths <= 3 * (math.ceil(math.log2(len(suspects))) + 2)


@pytest.mark.parametrize("count", [1, 2, 5, 100])
def test_the_innocent_are_let_go_after_a_few_trials(count: int) -> None:
    found, deaths, trials = search([f"r{i}" for i in range(count)], [])
    assert (found, deaths) == ([], 0)
    assert trials <= math.ceil(math.log2(count)) + 1


def loaded(limits: EngineConfig, *faults: str, restarts: int = 10) -> tuple[Engine, MockSource]:
    """An engine with these faults."""
    source = MockSource(limits)
    supervisor = Supervisor(source, RestartBudget(restarts, 600.0))
    injector = FaultInjector([parse_fault(fault) for fault in faults])
    return Engine(limits, source.start(None), supervisor=supervisor, injector=injector), source


def load(count: int, least_made: int = 5) -> list[Request]:
    return [
        request(f"r{i}", range(i, 2 * i + 5), temperature=1.0, seed=i, max_tokens=least_made + i % 7, logprobs=i % 3)
        for i in range(count)
    ]


def run(engine: Engine, asked: list[Request], head_start: int = 0) -> dict[str, Outcome]:
    """Ask the first, let them run `head_start` steps, ask the others, and finish."""
    outcomes: dict[str, Outcome] = {}
    half = len(asked) // 2 if head_start else len(asked)
    for each in asked[:half]:
        engine.add(each)
    for _ in range(head_start):
        collect(outcomes, engine.step())
    for each in asked[half:]:
        engine.add(each)
    return finish(engine, outcomes)


def check(outcomes: dict[str, Outcome], asked: list[Request], limits: EngineConfig, killer: Collection[str]) -> None:
    for each in asked:
        outcome = outcomes[each.request_id]
        expected = alone(each, limits)
        if each.request_id in killer:
            assert isinstance(outcome.error, RequestFailedError)
            assert "the worker died each time this request ran" in outcome.error.message
            assert outcome.tokens == expected.tokens[: len(outcome.tokens)]
        else:
            assert outcome == expected, each.request_id


@pytest.mark.parametrize("killer", ["r0", "r13", "r31"])
@pytest.mark.parametrize("limits", [{}, {"max_num_batched_tokens": 40}, {"max_num_seqs": 8, "num_blocks": 40}], ids=str)
def test_one_killer_fails_alone(killer: str, limits: dict[str, int]) -> None:
    config_ = config(**limits)
    engine, source = loaded(config_, f"segfault@request:{killer}")
    asked = load(32)
    outcomes = run(engine, asked)
    check(outcomes, asked, config_, [killer])
    message = outcomes[killer].error.message  # type: ignore[union-attr]
    assert "with it alone" in message
    assert len(source.workers) - 1 <= 2 + 5 + 2
    assert engine.status().finished["error"] == 1


def test_a_late_killer_does_no_harm_to_those_before() -> None:
    limits = config()
    engine, _source = loaded(limits, "segfault@request:r30")
    asked = load(32)
    check(run(engine, asked, head_start=4), asked, limits, ["r30"])


def test_two_killers_at_once() -> None:
    limits = config()
    engine, source = loaded(limits, "segfault@request:r3", "exit@request:r20")
    asked = load(32)
    check(run(engine, asked), asked, limits, ["r3", "r20"])
    assert len(source.workers) - 1 <= 2 * (2 + 5 + 2)


def test_a_pair_that_kills_together_fails_and_no_one_else() -> None:
    limits = config()
    engine, source = loaded(limits, "segfault@request:r3+r20")
    asked = load(32, least_made=100)  # neither ends while they are searched for
    outcomes = run(engine, asked)
    check(outcomes, asked, limits, ["r3", "r20"])
    assert "with it and 1 other" in outcomes["r3"].error.message  # type: ignore[union-attr]
    assert len(source.workers) - 1 <= 2 + 2 * (5 + 2)


def test_killer_after_killer_does_not_spend_the_budget() -> None:
    limits = config()
    engine, source = loaded(limits, *(f"segfault@request:r{i}" for i in range(0, 24, 2)), restarts=3)
    asked = load(32)
    check(run(engine, asked), asked, limits, [f"r{i}" for i in range(0, 24, 2)])
    assert len(source.workers) > 12


def test_deaths_that_no_request_is_to_blame_for_end_in_no_blame() -> None:
    limits = config()
    engine, source = loaded(limits)
    asked = load(32)
    outcomes: dict[str, Outcome] = {}
    for each in asked:
        engine.add(each)
    for _ in range(3):
        source.workers[-1].die("killed from outside")
        collect(outcomes, engine.step())
        collect(outcomes, engine.step())
    check(finish(engine, outcomes), asked, limits, [])


class DecodeKiller(MockWorker):
    """Dies of a chunk in decode of a request with this seed; computed again in prefill, the same positions do no harm."""

    SEED = 666

    def send(self, plan: StepPlan) -> None:
        seeds = {slot: held.sampling.seed for slot, held in self._slots.items()}
        if any(chunk.count == 1 and seeds.get(chunk.slot) == self.SEED for chunk in plan.chunks):
            self.die("the decode kernel wrote out of bounds", exit_code=-signal.SIGSEGV)
        super().send(plan)


@pytest.mark.parametrize("restarts", [4, 10])
def test_a_request_that_kills_in_decode_only_is_found_before_the_budget_is_spent(restarts: int) -> None:
    limits = config()
    source = MockSource(limits, lambda _, config: DecodeKiller(config))
    supervisor = Supervisor(source, RestartBudget(restarts, 600.0))
    engine = Engine(limits, source.start(None), supervisor=supervisor)
    killer = request("killer", [3, 4, 5, 6], temperature=1.0, seed=DecodeKiller.SEED, max_tokens=90, ignore_eos=True)
    asked = [*load(20), killer, *load(31)[20:]]
    check(run(engine, asked), asked, limits, ["killer"])
    assert len(source.workers) - 1 <= restarts + 5 + 2
    assert not engine.step(0)
    assert not supervisor.on_last_restart, "its deaths are not counted"


def test_those_that_come_and_go_during_the_search() -> None:
    limits = config()
    engine, _source = loaded(limits, "segfault@request:r9")
    asked = load(32)
    outcomes: dict[str, Outcome] = {}
    for each in asked[:16]:
        engine.add(each)
    added, left = 16, ["r2", "r12"]
    while engine.has_work:
        collect(outcomes, engine.step())
        engine.check_invariants()
        if engine.scheduler.held and added < 32:
            engine.add(asked[added])
            added += 1
            if left:
                engine.abort(left.pop())
    assert added > 20
    stayed = [each for each in asked[:added] if each.request_id not in ("r2", "r12")]
    check(outcomes, stayed, limits, ["r9"])


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_drawn_killers(data: st.DataObject) -> None:
    limits = config(
        max_num_batched_tokens=data.draw(st.integers(8, 300)),
        max_num_seqs=data.draw(st.integers(1, 32)),
        num_blocks=data.draw(st.integers(8, 100)),
        block_size=data.draw(st.sampled_from([4, 16])),
        max_model_len=120,
        prefix_caching=data.draw(st.booleans()),
    )
    asked = [
        each for each in load(data.draw(st.integers(1, 20))) if len(each.prompt_token_ids) < limits.pool_tokens - 20
    ]
    names = [each.request_id for each in asked]
    killer = data.draw(st.sets(st.sampled_from(names), max_size=3)) if names else set()
    engine, _source = loaded(limits, *(f"exit@request:{name}" for name in killer))
    check(run(engine, asked, head_start=data.draw(st.integers(0, 5))), asked, limits, killer)


@pytest.mark.parametrize("limits", [{}, {"block_size": 2}], ids=["blocks-of-16", "blocks-of-2"])
def test_a_request_with_nan_fails_alone_and_its_blocks_are_never_found_again(limits: dict[str, int]) -> None:
    config_ = config(**limits)
    engine, _source = loaded(config_, "nan@request:bad")
    prompt = list(range(90, 40, -1))
    asked = [*load(31), request("bad", prompt, max_tokens=4)]
    outcomes = run(engine, asked)
    error = outcomes.pop("bad").error
    assert isinstance(error, RequestFailedError)
    assert "not finite" in error.message
    check(outcomes, asked[:-1], config_, [])
    again = request("again", prompt, max_tokens=4)
    assert engine.scheduler.index.match(engine.accept(again).tokens) == []
    assert run(engine, [again])["again"] == alone(again, config_)
    assert engine.scheduler.index.match(engine.accept(again).tokens) != []


def test_in_small_steps_a_suspect_gets_past_all_steps_that_a_worker_died_with() -> None:
    """Whichever of them was deadly; in whole ones past the first."""
    search = KillerSearch({"a": 10}, {"b": 5}, 2, {"a": 12})
    assert search.trial == Trial(["a"])
    assert search.record_trial(died=True) is None
    search.on_step({"b": 5})
    assert (search.trial, search.pending) == (Trial(["b"]), set())
    assert search.record_trial(died=False) is None
    assert search.trial == Trial(["a"], in_small_steps=True)
    search.on_step({"a": 10})
    assert (search.has_lived, search.pending) == (True, {"a"})
    search.on_step({"a": 12})
    assert search.pending == set()
    assert search.record_trial(died=False) == []

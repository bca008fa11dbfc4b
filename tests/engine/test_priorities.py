"""Priorities: who runs first, who gives way, and that no bit depends on it."""

from __future__ import annotations

import dataclasses

import pytest

from engine.harness import Outcome, alone, collect, config, finish, request
from octavo.engine import Engine, Request
from octavo.errors import RequestError
from octavo.testing.mock_worker import MockWorker


def asked(name: str, priority: int, **sampling: object) -> Request:
    plain = request(name, [*range(10), len(name)], ignore_eos=True, **sampling)
    return dataclasses.replace(plain, priority=priority)


def test_the_lowest_starts_first_and_equals_as_they_came() -> None:
    engine = Engine(limits := config(priorities=True, max_num_seqs=1), MockWorker(limits))
    requests = [asked(*each, max_tokens=3) for each in (("a", 0), ("b", 5), ("c", -1), ("d", 5), ("e", 0), ("f", -1))]
    for each in requests:
        engine.add(each)
    ended: list[str] = []
    outcomes: dict[str, Outcome] = {}
    while engine.has_work:
        updates = engine.step()
        collect(outcomes, updates)
        engine.check_invariants()
        ended += [update.request_id for update in updates if update.finish_reason]
    assert ended == ["c", "f", "a", "e", "b", "d"]
    assert outcomes == {each.request_id: alone(each, limits) for each in requests}


def test_the_last_of_the_highest_number_gives_way() -> None:
    limits = config(priorities=True, block_size=2, num_blocks=24, prefix_caching=False, max_model_len=48)
    engine = Engine(limits, MockWorker(limits))
    requests = [asked(*each, max_tokens=20) for each in (("a", 9), ("b", 1), ("c", 0))]
    outcomes: dict[str, Outcome] = {}
    for each in requests:
        engine.add(each)
        collect(outcomes, engine.step())  # so that the first to arrive is the first to run
    lost: dict[str, int] = {}
    while engine.has_work:
        updates = engine.step()
        collect(outcomes, updates)
        engine.check_invariants()
        lost |= {update.request_id: update.num_preemptions for update in updates if update.finish_reason}
    assert lost["c"] == 0
    assert lost["a"] > 0
    assert lost["a"] >= lost["b"]
    assert outcomes == {each.request_id: alone(each, limits) for each in requests}


def test_one_that_only_waits_takes_nothing_from_one_that_runs() -> None:
    limits = config(priorities=True, max_num_seqs=1)
    engine = Engine(limits, MockWorker(limits))
    engine.add(asked("long", 5, max_tokens=30))
    engine.step()
    engine.add(asked("soon", -5, max_tokens=1))
    finish(engine)
    assert engine.status().preemptions == 0


def test_without_the_policy_a_priority_is_refused() -> None:
    engine = Engine(limits := config(), MockWorker(limits))
    with pytest.raises(RequestError) as error:
        engine.add(asked("a", 1))
    assert error.value.param == "priority"

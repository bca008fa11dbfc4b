"""Promise 2 of a model with recurrent layers: chunks, companies, snapshots, preemptions and deaths of workers change no bit."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bits.schedules import House, Job, Machine, Solo, houses, jobs, make_engine, run_schedule
from bits.test_twins import HOUSE, JOBS
from bits.tiny import hybrid_machine
from octavo.models.forward_batch import ForwardBatch
from octavo.ops.delta_net import StateUse
from octavo.worker import batch as worker_batch
from octavo.worker import runner

SCHEDULES = 4
"""For each number of snapshots and block size."""
SNAPSHOTS, BLOCK_SIZES = (0, 1, 9), (2, 3, 8)


@st.composite
def hybrid_houses(draw: st.DrawFn, num_snapshots: int, block_size: int) -> House:
    """From no snapshot to more than can be kept; up to three deaths."""
    return dataclasses.replace(
        draw(houses([block_size])),
        num_snapshots=num_snapshots,
        snapshot_spacing=draw(st.sampled_from([1, 5, 8, 1000])),
        kills=tuple(draw(st.lists(st.integers(1, 30), max_size=3, unique=True))),
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_drawn_schedules_give_what_requests_give_alone() -> None:
    machine = hybrid_machine()
    solo = Solo(machine)
    seen: Counter[str] = Counter()
    # one that is known to meet everything, and drawn ones
    assert differences(machine, seen, num_snapshots=9, kills=(7,)) == []
    for num_snapshots, block_size in itertools.product(SNAPSHOTS, BLOCK_SIZES):

        @settings(deadline=None, max_examples=SCHEDULES, suppress_health_check=[HealthCheck.too_slow])
        @given(hybrid_houses(num_snapshots, block_size), jobs())
        def each(house: House, drawn: list[Job]) -> None:
            seen["schedules"] += 1
            answers = run_schedule(make_engine(machine, house, seen), drawn, seen, house.kills)
            assert solo.differences(drawn, answers) == []

        each()
    print(dict(seen))
    assert min(seen["preemptions"], seen["cached"], seen["mixed steps"], seen["kills"]) > 0, seen


def differences(machine: Machine, seen: Counter[str] | None = None, **changes: object) -> list[str]:
    seen = Counter() if seen is None else seen
    house = dataclasses.replace(HOUSE, **changes)  # type: ignore[arg-type]
    answers = run_schedule(make_engine(machine, house, seen), JOBS, seen, house.kills)
    return Solo(machine).differences(JOBS, answers)


@pytest.mark.parametrize("ahead", [1, 2])
def test_the_real_model_differs_nowhere(ahead: int) -> None:
    seen: Counter[str] = Counter()
    assert differences(hybrid_machine(), seen, ahead=ahead, kills=(3, 9)) == []
    assert min(seen["preemptions"], seen["cached"], seen["mixed steps"], seen["kills"]) > 0, seen


def test_without_snapshots_no_prefix_is_cached() -> None:
    seen: Counter[str] = Counter()
    assert differences(hybrid_machine(), seen, num_snapshots=0) == []
    assert seen["cached"] == 0


def mutate(monkeypatch: pytest.MonkeyPatch, use: dict[str, object]) -> None:
    """Every chunk that goes on from a snapshot, or keeps one, does what `use` says instead."""
    shipped = worker_batch.make_batch

    def wrong(*args: object, **options: object) -> ForwardBatch:
        batch = shipped(*args, **options)  # type: ignore[arg-type]
        states = tuple(_changed(each, use) for each in batch.states)
        return dataclasses.replace(batch, states=states)

    monkeypatch.setattr(runner, "make_batch", wrong)


def _changed(each: StateUse, use: dict[str, object]) -> StateUse:
    if "source" in use and each.source not in (-1, each.state):
        return each._replace(source=-1)
    if "keep_after" in use and each.keep_after > 1:
        return each._replace(keep_after=each.keep_after - 1)
    return each


def test_a_snapshot_that_is_not_gone_on_from_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, {"source": -1})
    assert differences(hybrid_machine()) != []


def test_a_snapshot_of_a_token_before_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, {"keep_after": -1})
    assert differences(hybrid_machine()) != []

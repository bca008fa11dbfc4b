"""Promise 2 of a model with recurrent layers: chunks, companies, snapshots, preemptions and deaths of workers change no bit."""

from __future__ import annotations

import dataclasses
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

SCHEDULES = 20


@st.composite
def hybrid_houses(draw: st.DrawFn) -> House:
    """From no snapshot to more than can be kept; up to three deaths."""
    return dataclasses.replace(
        draw(houses()),
        num_snapshots=draw(st.sampled_from([0, 1, 2, 4, 9])),
        snapshot_spacing=draw(st.sampled_from([1, 5, 8, 1000])),
        kills=tuple(draw(st.lists(st.integers(1, 30), max_size=3, unique=True))),
    )


def asked_again(drawn: list[Job]) -> list[Job]:
    """The first of them once more, one of them longer: a snapshot lies where a prompt ends, not where two begin to differ."""
    again = [dataclasses.replace(job, name=f"{job.name}-again", arrival=job.arrival + 9) for job in drawn[:3]]
    return [dataclasses.replace(job, prompt=(*job.prompt, *[3] * i)[:32]) for i, job in enumerate(again)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_drawn_schedules_give_what_requests_give_alone() -> None:
    machine = hybrid_machine()
    solo = Solo(machine)
    seen: Counter[str] = Counter()

    @settings(deadline=None, max_examples=SCHEDULES, suppress_health_check=[HealthCheck.too_slow])
    @given(hybrid_houses(), jobs())
    def each(house: House, drawn: list[Job]) -> None:
        seen["schedules"] += 1
        asked = [*drawn, *asked_again(drawn)]
        answers = run_schedule(make_engine(machine, house, seen), asked, seen, house.kills)
        assert solo.differences(asked, answers) == []

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

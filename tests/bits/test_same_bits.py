"""Promise 2: a request's tokens and logprobs are, bit for bit, those of the request run alone in a fresh engine."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings

from bits.schedules import AHEAD, BLOCK_SIZES, House, Job, Solo, houses, jobs, make_engine, run_schedule
from bits.tiny import tiny_machine

SCHEDULES = 9
"""For each size of blocks with each number of steps ahead: dealt out, half as many meet more than drawn ones would."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_drawn_schedules_give_what_requests_give_alone() -> None:
    machine = tiny_machine()
    solo = Solo(machine)
    seen: Counter[str] = Counter()

    def sweep(block_size: int, ahead: int) -> None:
        @settings(deadline=None, max_examples=SCHEDULES, suppress_health_check=[HealthCheck.too_slow])
        @given(houses([block_size], [ahead]), jobs())
        def each(house: House, drawn: list[Job]) -> None:
            seen["schedules"] += 1
            answers = run_schedule(make_engine(machine, house, seen), drawn, seen)
            assert solo.differences(drawn, answers) == []

        each()

    for block_size, ahead in itertools.product(BLOCK_SIZES, AHEAD):
        sweep(block_size, ahead)
    print(dict(seen))
    assert seen["schedules"] >= SCHEDULES * len(BLOCK_SIZES) * len(AHEAD)
    assert min(seen["preemptions"], seen["cached"], seen["aborted"], seen["mixed steps"]) > 0, seen
    assert seen["chunks"] > 1.2 * seen["answers"], seen

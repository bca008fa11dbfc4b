"""The engine on the runner, with the exact toy model: what the schedules of tests/bits do, in little time."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings

from bits.schedules import House, Job, Machine, Solo, houses, jobs, make_engine, run_schedule
from octavo.config.facts import PagedKv
from worker.toy import HIDDEN, VOCAB, ToyModel

MACHINE = Machine(ToyModel(), vocab_size=VOCAB, eos_token_id=58, cache=(PagedKv(1, HIDDEN),))


def test_drawn_schedules_give_what_requests_give_alone() -> None:
    seen: Counter[str] = Counter()
    solo = Solo(MACHINE)

    @settings(deadline=None, max_examples=100)
    @given(houses(), jobs())
    def sweep(house: House, drawn: list[Job]) -> None:
        answers = run_schedule(make_engine(MACHINE, house, seen), drawn, seen)
        assert solo.differences(drawn, answers) == []

    sweep()
    print(seen)
    assert min(seen["preemptions"], seen["cached"], seen["aborted"]) > 0

"""A worker that hangs is noticed by the time its step takes, and replaced like a dead one."""

from __future__ import annotations

from engine.harness import alone, collect, config, finish, request
from octavo.engine import Engine
from octavo.engine.recovery.deadline import FACTOR, RECENT, StepDeadline
from octavo.engine.recovery.supervisor import RestartBudget, Supervisor
from octavo.messages import StepResult
from octavo.testing.mock_worker import MockSource, MockWorker


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class HangingWorker(MockWorker):
    """Has no result any more once `hanging`; a wait takes the time of `clock`."""

    hanging = False

    def __init__(self, limits: object, clock: Clock) -> None:
        super().__init__(limits)  # type: ignore[arg-type]
        self.clock = clock

    def receive(self, timeout_s: float | None) -> StepResult | None:
        if not self.hanging:
            return super().receive(timeout_s)
        assert timeout_s is not None
        self.clock.now_s += timeout_s
        return None


def test_the_deadline_is_the_floor_or_many_times_the_slowest_step() -> None:
    deadline = StepDeadline(5.0)
    assert deadline.seconds == 5.0
    deadline.on_start(largest_s=0.7)
    assert deadline.seconds == FACTOR * 0.7
    deadline.on_start(largest_s=0.0)
    assert deadline.seconds == FACTOR * 0.7, "the next worker need not try the largest step again"
    deadline.on_step(2.0)
    assert deadline.seconds == FACTOR * 2.0
    for _ in range(RECENT):
        deadline.on_step(0.1)
    assert deadline.seconds == FACTOR * 0.7


def test_a_hung_worker_is_replaced_at_the_deadline_and_not_before() -> None:
    limits, clock = config(), Clock()
    source = MockSource(limits, lambda _, config: HangingWorker(config, clock))
    supervisor = Supervisor(source, RestartBudget(1, 600.0), clock=clock, step_timeout_s=3.0)
    engine = Engine(limits, source.start(None), clock=clock, supervisor=supervisor)
    asked = [request(f"r{i}", range(i, 20), max_tokens=9) for i in range(5)]
    for each in asked:
        engine.add(each)
    outcomes: dict[str, object] = {}
    for _ in range(3):
        collect(outcomes, engine.step())  # type: ignore[arg-type]
    first = source.workers[0]
    assert isinstance(first, HangingWorker)
    first.hanging = True
    began_s = clock.now_s
    while not engine.status().recovering:
        assert clock.now_s <= began_s + 3.0
        collect(outcomes, engine.step(0.25))  # type: ignore[arg-type]
    assert clock.now_s >= began_s + 3.0
    finish(engine, outcomes)  # type: ignore[arg-type]
    assert outcomes == {each.request_id: alone(each, limits) for each in asked}
    assert engine.status().restarts["hang"] == 1
    assert not first.alive


def test_an_idle_worker_is_no_hung_one() -> None:
    limits, clock = config(), Clock()
    source = MockSource(limits)
    supervisor = Supervisor(source, RestartBudget(1, 600.0), clock=clock, step_timeout_s=3.0)
    engine = Engine(limits, source.start(None), clock=clock, supervisor=supervisor)
    finish(engine, {})
    for _ in range(2):
        clock.now_s += 1000.0
        engine.step(0)
        engine.add(request(f"at-{clock.now_s}", [1, 2], max_tokens=3))
        finish(engine)
    assert engine.status().num_restarts == 0

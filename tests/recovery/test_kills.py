"""The promise, with octavo-tiny and real processes: whatever ends the worker, and whenever, nothing is lost or changed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from engine.harness import Outcome, alone, config, request, serve
from octavo.engine import Engine, EngineLoop, Request, Update
from octavo.engine.recovery.supervisor import RestartBudget, Supervisor
from octavo.engine.sequence import Sequence
from octavo.startup import Runtime, in_this_process, start, with_keeper
from octavo.testing.mock_worker import MockSource, MockWorker
from recovery.load import answers, requests, settings
from waits import wait_until

KILLED_STEPS = 40
DRAWN_KILLS = 20


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Outcome]:
    """What the requests answer when nothing happens."""
    runtime = start(settings(), in_this_process)
    try:
        outcomes = answers(runtime.engine(), requests())
    finally:
        runtime.close()
    assert sum(len(outcome.tokens) for outcome in outcomes.values()) > 1700
    return outcomes


@pytest.fixture
def runtime(warm: None) -> Iterator[Callable[..., Runtime]]:
    """Starts an engine's surroundings, with the faults to inject, and other settings."""
    opened: list[Runtime] = []

    def begin(*faults: str, **changes: object) -> Runtime:
        opened.append(start(settings(inject_fault=faults, **changes), with_keeper))
        return opened[-1]

    yield begin
    for each in opened:
        each.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kill_at_every_step_in_turn_and_every_other_end(
    runtime: Callable[..., Runtime], undisturbed: dict[str, Outcome]
) -> None:
    kills = [f"kill@step:{number}" for number in range(1, KILLED_STEPS + 1)]
    engine = runtime(*kills, "hang@step:42", "raise@step:43", "exit@step:45").engine()
    assert answers(engine, requests()) == undisturbed
    status = engine.status()
    assert status.restarts == {"exit": 1, "signal": KILLED_STEPS, "fault": 1, "hang": 1, "start": 0}
    assert status.tokens_recomputed > 15_000
    assert (status.running, status.waiting, status.free_blocks) == (0, 0, status.total_blocks)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_at_drawn_moments_from_outside(runtime: Callable[..., Runtime], undisturbed: dict[str, Outcome]) -> None:
    server = Streams(runtime().engine())
    dice, kills, load = random.Random(9), 0, 0
    while kills < DRAWN_KILLS:
        for asked in requests(prefix=f"{load}-r"):
            server.loop.submit(asked)
        while server.open(f"{load}-") and kills < DRAWN_KILLS:
            time.sleep(dice.uniform(0.0, 0.12))
            kills += server.kill()
        load += 1
    server.finish()
    seeded = {name for name, outcome in undisturbed.items()}
    for name, outcome in server.outcomes.items():
        number = name.partition("-")[2]
        assert number in seeded
        if is_fixed(number):
            assert outcome == undisturbed[number], name
        assert outcome.reason is not None
        assert outcome.error is None
    restarts = server.loop.status().restarts
    assert restarts["signal"] + restarts["start"] == DRAWN_KILLS


def is_fixed(name: str) -> bool:
    """The answer does not depend on the request id, from which requests without a seed draw one."""
    sampling = next(each.sampling for each in requests() if each.request_id == name)
    return sampling.greedy or sampling.seed is not None


class Streams:
    """An engine loop, and all that it tells."""

    def __init__(self, engine: Engine) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._lock = threading.Lock()
        self.loop = EngineLoop(engine, self._deliver)
        self.loop.start()

    def open(self, prefix: str) -> bool:
        """Whether requests of this prefix still run."""
        with self._lock:
            ended = sum(name.startswith(prefix) and bool(each.reason) for name, each in self.outcomes.items())
        return ended < len(requests())

    def kill(self) -> bool:
        """Kill the worker, unless the one before is not replaced yet."""
        status = self.loop.status()
        if status.recovering:
            return False
        os.kill(status.worker_pid, signal.SIGKILL)
        wait_until(lambda: self.loop.status().num_restarts > status.num_restarts)  # the recovery may be over by then
        return True

    def finish(self) -> None:
        assert self.loop.drain(120)
        self.loop.stop()

    def _deliver(self, updates: list[Update]) -> None:
        with self._lock:
            for update in updates:
                self.outcomes.setdefault(update.request_id, Outcome()).take(update)


@pytest.mark.slow
def test_steps_of_a_size_that_kills_cost_nobody_anything(
    runtime: Callable[..., Runtime], undisturbed: dict[str, Outcome]
) -> None:
    engine = runtime("segfault@tokens:400", max_worker_restarts=10).engine()
    assert answers(engine, requests()) == undisturbed
    assert 2 <= sum(engine.status().restarts.values()) <= 10


@pytest.mark.slow
def test_a_killer_and_one_with_nan_fail_alone(runtime: Callable[..., Runtime], undisturbed: dict[str, Outcome]) -> None:
    engine = runtime("segfault@request:r7", "nan@request:r5").engine()
    outcomes = answers(engine, requests()[:8])
    errors = {name: outcome.error.message for name, outcome in outcomes.items() if outcome.error is not None}
    assert set(errors) == {"r7", "r5"}
    assert "with it alone" in errors["r7"]
    assert "not finite" in errors["r5"]
    for name in outcomes.keys() - errors:
        assert outcomes[name] == undisturbed[name], name
    assert engine.status().num_restarts <= 8


def damaged_recovery(monkeypatch: pytest.MonkeyPatch, damage: Callable[[Sequence], None]) -> None:
    wait_again = Sequence.wait_again

    def damaged(self: Sequence) -> None:
        if self.num_made_tokens > 1:
            damage(self)
        wait_again(self)

    monkeypatch.setattr(Sequence, "wait_again", damaged)


def drop(sequence: Sequence) -> None:
    sequence.tokens.pop()


def double(sequence: Sequence) -> None:
    sequence.tokens.append(sequence.tokens[-1])


def change(sequence: Sequence) -> None:
    sequence.tokens[-1] ^= 1


def mortal(asked: list[Request]) -> tuple[dict[str, Outcome], dict[str, Outcome]]:
    """What an engine whose worker dies in the middle answers, and what it should."""
    limits = config()
    source = MockSource(limits, lambda number, config: MockWorker(config, die_at_step=None if number else 5))
    supervisor = Supervisor(source, RestartBudget(1, 600.0))
    engine = Engine(limits, source.start(None), supervisor=supervisor)
    return serve(engine, asked), {each.request_id: alone(each, limits) for each in asked}


MIXED = [
    request(f"r{i}", range(i, 30), temperature=1.0, seed=i, max_tokens=12, logprobs=1, ignore_eos=True)
    for i in range(10)
]


def test_the_comparison_holds_when_nothing_is_damaged() -> None:
    got, expected = mortal(MIXED)
    assert got == expected


@pytest.mark.parametrize("damage", [drop, double, change], ids=lambda damage: damage.__name__)
def test_a_token_that_recovery_drops_doubles_or_changes_shows(
    damage: Callable[[Sequence], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged_recovery(monkeypatch, damage)
    got, expected = mortal(MIXED)
    assert got.keys() == expected.keys()
    assert all(got[name] != expected[name] for name in got)


@pytest.mark.parametrize("field", ["token", "logprob"])
def test_one_token_or_logprob_told_wrong_shows(undisturbed: dict[str, Outcome], field: str) -> None:
    outcome = next(each for each in undisturbed.values() if each.tokens[3][1] is not None)
    token, score = outcome.tokens[3]
    assert score is not None
    changed = (
        (token ^ 1, score) if field == "token" else (token, type(score)(token, score.logprob + 1e-7, score.rank, []))
    )
    twin = Outcome([*outcome.tokens[:3], changed, *outcome.tokens[4:]], outcome.reason, outcome.stop_token_id)
    assert twin != outcome

"""The door to the engine for other threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from engine.harness import Outcome, PacedWorker, alone, collect, config, request
from octavo.engine import Engine, EngineLoop, FinishReason, Request, Update
from octavo.errors import OverloadedError, RequestError, WorkerDiedError
from octavo.testing.mock_worker import MockWorker
from waits import BOUND_S, wait_until

LIMITS = config(block_size=4)


class Inbox:
    """Receives updates and lets a test wait for them."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.changed = threading.Condition()

    def __call__(self, updates: list[Update]) -> None:
        with self.changed:
            collect(self.outcomes, updates)
            self.changed.notify_all()

    def reason(self, request_id: str) -> FinishReason | None:
        return self.outcomes.get(request_id, Outcome()).reason

    def wait(self, *request_ids: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: all(self.reason(i) for i in request_ids), BOUND_S), self.outcomes


class Station:
    """A loop on a mock worker."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.worker = PacedWorker(LIMITS, delay_s=delay_s)
        self.engine = Engine(LIMITS, self.worker)
        self.inbox = Inbox()
        self.loop = EngineLoop(self.engine, self.inbox)
        self.loop.start()


@pytest.fixture
def station() -> Iterator[Callable[..., Station]]:
    opened: list[Station] = []

    def begin(delay_s: float = 0.0) -> Station:
        opened.append(Station(delay_s))
        return opened[-1]

    yield begin
    for each in opened:
        each.loop.stop()


def endless(request_id: str) -> Request:
    return request(request_id, [1, 2], max_tokens=1500, ignore_eos=True)


def test_requests_from_many_threads_each_get_their_answer(station: Callable[..., Station]) -> None:
    here = station()
    asked = [request(f"r{i}", range(i % 30, i % 30 + 10), max_tokens=9) for i in range(200)]

    def submit(part: list[Request]) -> None:
        for each in part:
            here.loop.submit(each)

    threads = [threading.Thread(target=submit, args=(asked[i::8],)) for i in range(8)]
    for thread in threads:
        thread.start()
    here.inbox.wait(*(each.request_id for each in asked))
    for thread in threads:
        thread.join()
    assert here.inbox.outcomes == {each.request_id: alone(each, LIMITS) for each in asked}
    assert here.loop.status().free_blocks == LIMITS.num_blocks


def test_an_idle_loop_is_woken(station: Callable[..., Station], monkeypatch: pytest.MonkeyPatch) -> None:
    """It would look for work by itself in an hour."""
    monkeypatch.setattr("octavo.engine.loop.IDLE_LOOK_S", 3600.0)
    here = station()
    for i in range(5):
        time.sleep(0.1)
        here.loop.submit(request(f"r{i}", [1], max_tokens=1))
        here.inbox.wait(f"r{i}")


def test_an_idle_loop_burns_no_cpu(station: Callable[..., Station]) -> None:
    here = station()
    here.loop.submit(request("a", [1], max_tokens=1))
    here.inbox.wait("a")
    before = time.process_time()
    time.sleep(1.0)
    assert time.process_time() - before < 0.1


def test_refusals_come_in_the_callers_thread(station: Callable[..., Station]) -> None:
    here = station(0.05)
    with pytest.raises(RequestError, match="prompt is empty"):
        here.loop.submit(request("a", []))
    here.loop.submit(endless("b"))
    with pytest.raises(RequestError, match="in use"):
        here.loop.submit(endless("b"))
    here.loop.abort(["b"])


def test_the_queue_bound_counts_what_has_not_arrived_yet() -> None:
    limits = config(max_num_queued_reqs=3, max_num_queued_tokens=100)
    inbox = Inbox()
    loop = EngineLoop(Engine(limits, MockWorker(limits)), inbox)
    for i in range(3):
        loop.submit(request(f"r{i}", [1, 2]))
    with pytest.raises(OverloadedError, match="max_num_queued_reqs"):
        loop.submit(request("late", [1]))
    with pytest.raises(RequestError, match="in use"):
        loop.submit(request("r0", [1]))
    loop.start()
    inbox.wait("r0", "r1", "r2")
    loop.submit(request("late", [1]))
    inbox.wait("late")
    loop.stop()


def test_abort_ends_a_running_request_before_its_step_does(station: Callable[..., Station]) -> None:
    here = station()
    here.worker.let = 0
    here.loop.submit(endless("a"))
    wait_until(lambda: here.loop.status().running)
    here.loop.abort(["a", "unknown"])
    here.inbox.wait("a")
    assert here.inbox.reason("a") is FinishReason.ABORT
    assert here.worker.let == 0, "the step has not ended"
    here.worker.let = None


def test_drain_refuses_new_requests_and_waits_for_the_others(station: Callable[..., Station]) -> None:
    here = station(0.01)
    here.loop.submit(request("a", [1], max_tokens=20, ignore_eos=True))
    assert here.loop.drain(20)
    assert here.inbox.reason("a") is FinishReason.LENGTH
    with pytest.raises(OverloadedError, match="shutting down"):
        here.loop.submit(request("b", [1]))


def test_drain_ends_at_its_bound_and_stop_aborts_the_rest(station: Callable[..., Station]) -> None:
    here = station(0.02)
    here.loop.submit(endless("a"))
    before = time.monotonic()
    assert not here.loop.drain(0.2)
    assert time.monotonic() - before > 0.15
    here.loop.stop()
    assert here.inbox.reason("a") is FinishReason.ABORT
    here.loop.stop()


def test_an_idle_loop_drains_at_once(station: Callable[..., Station]) -> None:
    assert station().loop.drain(5)


def test_the_prefix_cache_is_reset_between_requests(station: Callable[..., Station]) -> None:
    here = station(0.01)
    here.loop.submit(endless("a"))
    assert not here.loop.reset_prefix_cache()
    here.loop.abort(["a"])
    here.inbox.wait("a")
    assert here.loop.reset_prefix_cache()
    assert len(here.engine.scheduler.index) == 0
    here.loop.stop()
    assert not here.loop.reset_prefix_cache()


def test_death_of_the_worker_ends_all(station: Callable[..., Station]) -> None:
    here = station(0.01)
    ids = [f"r{i}" for i in range(64)]
    for each in ids:
        here.loop.submit(endless(each))
    time.sleep(0.05)
    here.worker.die("the worker ended: signal 9")
    here.inbox.wait(*ids)
    assert {type(here.inbox.outcomes[each].error) for each in ids} == {WorkerDiedError}
    with pytest.raises(WorkerDiedError, match="signal 9"):
        here.loop.submit(endless("late"))
    assert not here.loop.status().alive
    assert here.loop.drain(5)


def test_death_is_noticed_while_idle(station: Callable[..., Station]) -> None:
    here = station()
    here.worker.die("gone")
    wait_until(lambda: not here.loop.status().alive)


def test_an_error_in_the_engine_ends_every_request_and_is_no_hang(
    station: Callable[..., Station], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = station(0.01)
    here.loop.submit(endless("a"))
    time.sleep(0.05)

    def broken(_now_s: float) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(here.engine.scheduler, "plan", broken)
    here.inbox.wait("a")
    assert "internal error: ZeroDivisionError('a bug')" in str(here.inbox.outcomes["a"].error)
    assert "internal error" in caplog.text
    with pytest.raises(WorkerDiedError):
        here.loop.submit(endless("late"))


def test_every_accepted_request_ends_whatever_the_moment_of_stop() -> None:
    for pause_s in (0.0, 0.001, 0.005, 0.02):
        here = Station(0.001)
        accepted: list[str] = []

        def submit(here: Station = here, accepted: list[str] = accepted) -> None:
            for i in range(500):
                try:
                    here.loop.submit(endless(f"r{i}"))
                except OverloadedError:
                    return
                accepted.append(f"r{i}")

        thread = threading.Thread(target=submit)
        thread.start()
        time.sleep(pause_s)
        here.loop.stop()
        thread.join()
        assert sorted(accepted) == sorted(here.inbox.outcomes)
        assert all(outcome.reason for outcome in here.inbox.outcomes.values())

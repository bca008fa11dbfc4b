"""Faults on demand: how they are asked for, which step they go with, and what they do to a real worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from octavo.config import Settings
from octavo.engine.processes.channel import ProcessChannel
from octavo.engine.processes.worker_process import ProcessWorker
from octavo.engine.recovery.fault_injection import (
    FORM,
    AtStep,
    FaultInjector,
    InjectedFault,
    OfTokens,
    WithRequests,
    parse_fault,
)
from octavo.errors import ConfigError, DeathCause, WorkerDiedError
from octavo.messages import Admission, Chunk, Fault, FaultKind, StepPlan
from octavo.sampling import SamplingParams
from octavo.startup import fault_injector
from worker.toy import toy_config

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kill@step:7", InjectedFault(FaultKind.KILL, AtStep(7))),
        ("exit@tokens:8192", InjectedFault(FaultKind.EXIT, OfTokens(8192))),
        ("nan@request:a", InjectedFault(FaultKind.NAN, WithRequests(("a",)))),
        ("exit@request:one+other", InjectedFault(FaultKind.EXIT, WithRequests(("one", "other")))),
    ],
    ids=["step", "tokens", "request", "pair"],
)
def test_a_fault_is_asked_for_in_one_word(text: str, fault: InjectedFault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    "text",
    [
        "kill",
        "kill@",
        "kill@step:0",
        "kill@step:x",
        "kill@request:",
        "kill@request:a+",
        "kill@token:3",
        "kill@tokens:0",
    ],
)
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="form") as caught:
        parse_fault(text)
    assert FORM in caught.value.message


def test_what_cannot_be_injected_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="exit, kill"):
        fault_injector(Settings(inject_fault=("crash@step:1",)), "cpu")
    with pytest.raises(ConfigError, match="CUDA"):
        fault_injector(Settings(inject_fault=("out-of-bounds@step:1",)), "cpu")
    assert fault_injector(Settings(inject_fault=("out-of-bounds@step:1",)), "cuda") is not None
    assert fault_injector(Settings(), "cpu") is None


def test_a_fault_for_a_step_comes_once_and_one_for_requests_each_time() -> None:
    injector = FaultInjector([parse_fault(text) for text in ("kill@step:2", "nan@request:a+b", "hang@request:http")])
    slots = {"x": 4, "a": 1, "b": 3}
    assert injector.faults_of(1, {"a": 1, "x": 4}, 5) == []
    assert injector.faults_of(1, slots, 5) == [Fault(FaultKind.NAN, [1, 3])]
    assert injector.faults_of(2, {"x": 4}, 5) == [Fault(FaultKind.KILL, [4])]
    assert injector.faults_of(2, {"x": 4}, 5) == []
    assert injector.faults_of(3, slots, 5) == [Fault(FaultKind.NAN, [1, 3])]
    assert injector.faults_of(4, {"http.17.0": 9, "https": 2}, 5) == [Fault(FaultKind.HANG, [9])]


def test_a_fault_for_steps_of_a_size_comes_with_each() -> None:
    injector = FaultInjector([parse_fault("exit@tokens:8")])
    assert injector.faults_of(1, {"a": 1}, 7) == []
    for number in (2, 3):
        assert injector.faults_of(number, {"a": 1, "b": 0}, 8) == [Fault(FaultKind.EXIT, [1, 0])]
    assert injector.faults_of(4, {"a": 1}, 9) != []


def test_a_fault_that_was_not_committed_comes_again() -> None:
    injector = FaultInjector([parse_fault(f"kill@step:{number}") for number in (4, 5, 6)])
    assert injector.faults_of(4, {"a": 0}, 5)
    assert injector.faults_of(5, {"a": 0}, 5)
    injector.on_death(completed=3)
    assert not injector.faults_of(4, {"a": 0}, 5)
    assert injector.faults_of(5, {"a": 0}, 5)
    injector.on_death(completed=4)
    assert not injector.faults_of(5, {"a": 0}, 5)
    assert injector.faults_of(6, {"a": 0}, 5)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, warm: None) -> Iterator[ProcessWorker]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    worker = ProcessWorker(toy_config(), 60.0, ProcessChannel("worker.toy_worker"))
    yield worker
    worker.close()


def plan(kind: FaultKind) -> StepPlan:
    """One step of two requests, with a fault for the first."""
    greedy = SamplingParams(temperature=0)
    admissions = [Admission(slot, [1, 2], 2, greedy, []) for slot in (0, 1)]
    return StepPlan(1, [], admissions, [Chunk(slot, 0, 2, [slot], True) for slot in (0, 1)], [Fault(kind, [0])])


@pytest.mark.parametrize(
    ("kind", "cause", "words"),
    [
        (FaultKind.EXIT, DeathCause.EXIT, "exit code 17"),
        (FaultKind.KILL, DeathCause.SIGNAL, "signal 9"),
        (FaultKind.RAISE, DeathCause.FAULT, "InjectedError"),
    ],
    ids=lambda value: value.value if isinstance(value, FaultKind) else None,
)
def test_a_fault_ends_the_worker(worker: ProcessWorker, kind: FaultKind, cause: DeathCause, words: str) -> None:
    worker.send(plan(kind))
    with pytest.raises(WorkerDiedError, match=words) as caught:
        worker.receive(10)
    assert caught.value.cause is cause


def test_a_hang_says_where_it_is_when_asked(worker: ProcessWorker) -> None:
    worker.send(plan(FaultKind.HANG))
    assert worker.receive(0.3) is None
    output = worker.last_output()
    assert any("worker/faults.py" in line and "in _end" in line for line in output), output


def test_a_hang_is_silent_until_the_worker_is_closed(worker: ProcessWorker) -> None:
    worker.send(plan(FaultKind.HANG))
    assert worker.receive(0.3) is None
    worker.close()
    assert not psutil.pid_exists(worker.ready.pid)


def test_nan_spoils_the_rows_of_its_request_alone(worker: ProcessWorker) -> None:
    worker.send(plan(FaultKind.NAN))
    result = worker.receive(10)
    assert result is not None
    assert result.bad_slots == [0]
    assert [token.slot for token in result.sampled] == [1]

"""Whatever a start of a worker raises is a start that failed: it is tried again, and the requests go on."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from octavo.engine.processes.channel import ProcessChannel
from octavo.engine.processes.reserve import COUNT as RESERVED
from octavo.engine.processes.reserve import DescriptorReserve
from octavo.engine.processes.standby_source import StandbySource
from octavo.engine.processes.worker_process import ProcessWorker
from octavo.engine.recovery.supervisor import AbandonedError, RestartBudget, Supervisor
from octavo.errors import ChangedWeightsError, CheckpointError, ConfigError, DeathCause, WorkerDiedError
from octavo.messages import StepPlan, WorkerConfig
from recovery.test_keeper import STAND_IN, TESTS, full, kill

CONFIG = WorkerConfig(model="well", max_model_len=1, max_num_seqs=1, max_num_batched_tokens=1, block_size=1)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavo.engine.recovery.supervisor.FIRST_PAUSE_S", 0.001)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def source() -> Iterator[StandbySource]:
    source = StandbySource(CONFIG, 60.0, keeper=STAND_IN, worker=STAND_IN)
    yield source
    source.close()


def failing(real: Callable[..., object], error: BaseException, count: int) -> Callable[..., object]:
    """What raises `error` the first `count` times it is called, then does what the real one does."""
    left = [count]

    def call(*args: object, **kwargs: object) -> object:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return real(*args, **kwargs)

    return call


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


SYSTEM_CALLS: list[tuple[object, str, BaseException]] = [
    (socket, "socketpair", refused(errno.EMFILE)),
    (socket, "socketpair", refused(errno.ENFILE)),
    (socket, "socketpair", refused(errno.ENOMEM)),
    (socket, "socketpair", refused(errno.ENOBUFS)),
    (subprocess, "Popen", refused(errno.EMFILE)),
    (subprocess, "Popen", refused(errno.EAGAIN)),
    (subprocess, "Popen", refused(errno.ENOMEM)),
    (subprocess, "Popen", FileNotFoundError(errno.ENOENT, "No such file or directory", "python")),
    (subprocess, "Popen", PermissionError(errno.EACCES, "Permission denied", "python")),
    (subprocess, "Popen", OSError(errno.ENOEXEC, "Exec format error")),
    (subprocess, "Popen", refused(errno.E2BIG)),
    (subprocess, "Popen", subprocess.SubprocessError("Exception occurred in preexec_fn.")),
    (subprocess, "Popen", MemoryError()),
    (threading.Thread, "start", RuntimeError("can't start new thread")),
    (os, "open", refused(errno.EMFILE)),
]
"""What is called on the way to a worker, and how it may refuse."""


@pytest.mark.parametrize(
    ("owner", "name", "error"), SYSTEM_CALLS, ids=lambda each: getattr(each, "__name__", repr(each))
)
def test_a_start_that_the_system_refuses_is_tried_again(
    source: StandbySource, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, error: BaseException
) -> None:
    worker = source.start(4)
    kill(worker.ready.pid, source.ensure_keeper().pid)  # no standby was started: nothing is there any more
    recorded: list[WorkerDiedError] = []
    supervisor = Supervisor(source, RestartBudget(10, 600.0))
    monkeypatch.setattr(owner, name, failing(getattr(owner, name), error, 3))
    next_worker = recovered(supervisor, worker, recorded)
    if owner is not os:  # the reserve does without what it does not get
        assert supervisor.restarts[DeathCause.START] == 3
        assert {death.cause for death in recorded} == {DeathCause.START}
    next_worker.send(StepPlan(1, [], [], []))
    assert next_worker.receive(60) is not None
    monkeypatch.undo()


def recovered(supervisor: Supervisor, worker: ProcessWorker, recorded: list[WorkerDiedError]) -> ProcessWorker:
    supervisor.on_death(WorkerDiedError("killed", exit_code=-9), 1, 1)
    link = supervisor.replace(worker, 4, recorded.append)
    assert isinstance(link, ProcessWorker)
    return link


class Refusing:
    """A source whose starts raise these, one after the other."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)

    def start(self, num_blocks: int | None) -> ProcessWorker:
        raise self.errors.pop(0)

    def tend(self) -> None: ...

    def abandon(self) -> None: ...

    def close(self) -> None: ...


class Closed:
    def close(self) -> None: ...


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("device", "no GPU just now"),
        CheckpointError("the folder is away", file="config.json"),
        ValueError("mmap"),
        OSError(errno.EIO, "I/O error"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_errors_of_every_kind_spend_the_budget_and_are_told(error: Exception) -> None:
    supervisor = Supervisor(Refusing(*[error] * 4), RestartBudget(3, 600.0))
    supervisor.on_death(WorkerDiedError("killed", exit_code=-9), 1, 1)
    with pytest.raises(WorkerDiedError) as caught:
        supervisor.replace(Closed(), 4)  # type: ignore[arg-type]
    assert caught.value.cause is DeathCause.START
    assert supervisor.restarts[DeathCause.START] == 2


def test_other_weights_end_all_at_once_for_answers_would_change_in_their_middle() -> None:
    supervisor = Supervisor(Refusing(ChangedWeightsError("holds other weights")), RestartBudget(3, 600.0))
    supervisor.on_death(WorkerDiedError("killed", exit_code=-9), 1, 1)
    with pytest.raises(WorkerDiedError, match="other weights"):
        supervisor.replace(Closed(), 4)  # type: ignore[arg-type]
    assert supervisor.restarts[DeathCause.START] == 0


def test_a_pause_between_starts_ends_when_the_engine_is_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavo.engine.recovery.supervisor.FIRST_PAUSE_S", 3600.0)
    monkeypatch.setattr("octavo.engine.recovery.supervisor.LONGEST_PAUSE_S", 3600.0)
    supervisor = Supervisor(Refusing(*[OSError(errno.EMFILE, "none left")] * 9), RestartBudget(9, 600.0))
    supervisor.on_death(WorkerDiedError("killed", exit_code=-9), 1, 1)
    stopping = threading.Timer(0.3, supervisor.abandon)
    stopping.start()
    with pytest.raises(AbandonedError):
        supervisor.replace(Closed(), 4)  # type: ignore[arg-type]
    stopping.join()


def test_a_recovery_needs_no_new_process_while_a_standby_lives(
    source: StandbySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = source.start(4)
    full(source)
    for owner, name in ((socket, "socketpair"), (subprocess, "Popen")):
        monkeypatch.setattr(owner, name, failing(getattr(owner, name), refused(errno.EMFILE), 10**6))
    for _ in range(2):
        kill(worker.ready.pid)
        supervisor = Supervisor(source, RestartBudget(10, 600.0))
        worker = recovered(supervisor, worker, [])
        source.tend()  # finds that no standby can be had, and says so
        assert supervisor.restarts[DeathCause.START] == 0
    monkeypatch.undo()


def test_the_last_descriptors_are_kept_for_a_worker(source: StandbySource) -> None:
    worker = source.start(4)
    kill(worker.ready.pid, source.ensure_keeper().pid)
    with no_descriptors_left():
        supervisor = Supervisor(source, RestartBudget(10, 600.0))
        next_worker = recovered(supervisor, worker, [])
        assert supervisor.restarts[DeathCause.START] == 0
        next_worker.send(StepPlan(1, [], [], []))
        assert next_worker.receive(60) is not None


def test_the_twin_without_a_reserve_has_none_left() -> None:
    reserve = DescriptorReserve()
    with no_descriptors_left():
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            socket.socketpair()
        with reserve.lent():
            for each in [socket.socketpair() for _ in range(RESERVED // 2)]:
                each[0].close()
                each[1].close()
    reserve.close()


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    """This process has opened all the files that it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_folder_for_temporary_files_that_vanishes_is_not_missed(
    source: StandbySource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.setenv("TMPDIR", str(gone))
    monkeypatch.setattr(tempfile, "tempdir", str(gone))
    worker = source.start(4)
    gone.rmdir()
    kill(worker.ready.pid, source.ensure_keeper().pid)
    worker = recovered(Supervisor(source, RestartBudget(0 + 1, 600.0)), worker, [])
    worker.send(StepPlan(1, [], [], []))
    assert worker.receive(60) is not None


def test_a_standby_that_cannot_live_is_tried_again_less_and_less_often(source: StandbySource) -> None:
    """As under a limit of memory that its imports exceed."""
    worker = source.start(4)
    now = [0.0]
    source._standbys._clock = lambda: now[0]
    started: list[float] = []
    new = source._standbys._new

    def start() -> ProcessChannel:
        started.append(now[0])
        return new()

    source._standbys._new = start  # type: ignore[method-assign]
    for _ in range(400):
        source.tend()
        for standby in source.standbys:
            os.kill(standby.channel.pid, signal.SIGKILL)
            while standby.channel.death() is None:
                pass
        now[0] += 0.5
    assert 5 < len(started) < 12
    assert started[-1] - started[-2] > 30
    worker.send(StepPlan(1, [], [], []))
    assert worker.receive(60) is not None

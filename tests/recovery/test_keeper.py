"""A keeper of the weights and a worker that waits: killed in every order, nothing is lost and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import psutil
import pytest

from octavo.checkpoints.folder import resolve_folder
from octavo.engine.processes.channel import ProcessChannel
from octavo.engine.processes.standby_source import StandbySource
from octavo.engine.processes.standbys import COUNT, Standby
from octavo.engine.processes.worker_process import ProcessWorker
from octavo.engine.recovery.supervisor import RestartBudget, Supervisor
from octavo.engine.statistics import RecoveryRecord
from octavo.errors import CheckpointError, ConfigError, WorkerDiedError
from octavo.messages import Admission, Chunk, StepPlan, WorkerConfig
from octavo.sampling import SamplingParams
from octavo.worker.inprocess import InProcessWorker
from waits import wait_until

TESTS = Path(__file__).parents[1]
START_S = 60.0
LONGER_THAN_A_HANG_S = 600.0
"""Of a stand-in, which then goes on: a start that waits for that ends well."""
STAND_IN = "recovery.children"
TINY = WorkerConfig(
    model=str(resolve_folder("octavo-tiny", None)),
    max_model_len=128,
    max_num_seqs=4,
    max_num_batched_tokens=64,
    block_size=16,
    num_blocks=16,
    threads=1,
)
SAMPLING = SamplingParams(seed=1, logprobs=5, prompt_logprobs=3)
PLANS = [
    StepPlan(1, [], [Admission(3, [5, 6, 7, 8], 4, SAMPLING, [])], [Chunk(3, 0, 4, [2], True)]),
    StepPlan(2, [], [], [Chunk(3, 4, 1, [], True)]),
    StepPlan(3, [3], [], []),
]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files would be made; nothing may be."""
    path = Path(tempfile.mkdtemp(prefix="o", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield path
    path.rmdir()


@pytest.fixture
def tiny(folder: Path, warm: None) -> Iterator[StandbySource]:
    source = StandbySource(TINY, START_S)
    yield source
    source.close()
    source.close()


@pytest.fixture
def stand_ins(folder: Path) -> Iterator[Callable[..., StandbySource]]:
    sources: list[StandbySource] = []

    def begin(how: str = "well", timeout_s: float = START_S) -> StandbySource:
        config = WorkerConfig(model=how, max_model_len=1, max_num_seqs=1, max_num_batched_tokens=1, block_size=1)
        sources.append(StandbySource(config, timeout_s, keeper=STAND_IN, worker=STAND_IN))
        return sources[-1]

    yield begin
    for source in sources:
        source.close()


@pytest.fixture(scope="module")
def undisturbed() -> list[object]:
    return answers(InProcessWorker(TINY))


def test_killed_in_every_order_it_gives_the_same_bits(tiny: StandbySource, undisturbed: list[object]) -> None:
    worker = tiny.start(None)
    num_blocks = worker.ready.num_blocks
    keeper = tiny.ensure_keeper().pid
    assert answers(worker) == undisturbed

    standby = waiting(tiny).pid
    kill(worker.ready.pid)
    worker = tiny.start(num_blocks)
    assert (worker.ready.pid, tiny.ensure_keeper().pid) == (standby, keeper)
    assert answers(worker) == undisturbed

    standbys = [channel.pid for channel in full(tiny)]
    kill(*standbys, worker.ready.pid)
    worker = tiny.start(num_blocks)
    assert worker.ready.pid not in standbys
    assert tiny.ensure_keeper().pid == keeper
    assert answers(worker) == undisturbed

    kill(keeper, worker.ready.pid)
    worker = tiny.start(num_blocks)
    assert tiny.ensure_keeper().pid != keeper
    assert worker.ready.num_blocks == num_blocks
    assert answers(worker) == undisturbed

    kill(tiny.ensure_keeper().pid, *(channel.pid for channel in full(tiny)), worker.ready.pid)
    assert answers(tiny.start(num_blocks)) == undisturbed


def test_the_bits_would_show_other_weights(tiny: StandbySource, undisturbed: list[object]) -> None:
    """The twin: random weights instead of the checkpoint's."""
    other = StandbySource(msgspec.structs.replace(TINY, load_format="dummy"), START_S)
    assert answers(other.start(None)) != undisturbed
    other.close()


def test_a_worker_killed_while_it_starts_costs_one_start(
    tiny: StandbySource, undisturbed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = tiny.start(None)
    keeper, standby = tiny.ensure_keeper().pid, waiting(tiny).pid
    take = tiny._standbys.take
    killer = threading.Timer(0.2, os.kill, [standby, signal.SIGKILL])

    def take_and_stop() -> Standby:
        taken = take()
        assert taken.channel.pid == standby
        os.kill(standby, signal.SIGSTOP)
        killer.start()
        return taken

    kill(worker.ready.pid)
    with monkeypatch.context() as patch:
        patch.setattr(tiny._standbys, "take", take_and_stop)
        with pytest.raises(WorkerDiedError, match="signal 9"):
            tiny.start(None)
    killer.join()
    assert answers(tiny.start(None)) == undisturbed
    assert tiny.ensure_keeper().pid == keeper


def test_a_standby_that_somebody_has_stopped_is_passed_over(tiny: StandbySource, undisturbed: list[object]) -> None:
    worker = tiny.start(None)
    waiting(tiny)
    for count in (1, COUNT):
        stopped = [channel.pid for channel in full(tiny)][:count]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        wait_until(partial(are_stopped, stopped))
        kill(worker.ready.pid)
        worker = tiny.start(None)
        assert worker.ready.pid not in stopped
        assert answers(worker) == undisturbed


def test_weights_are_one_copy_that_no_worker_can_write_and_the_standby_has_none(tiny: StandbySource) -> None:
    worker = tiny.start(None)
    mapped = [m for m in maps(worker.ready.pid) if "octavo-weights" in m.path]
    assert [m.perms for m in mapped] == ["r--s"]
    assert worker.ready.weight_bytes <= mapped[0].size < worker.ready.weight_bytes + 2**21
    standby = psutil.Process(waiting(tiny).pid)
    assert any("libtorch" in m.path for m in maps(standby.pid))
    assert not any("octavo-weights" in m.path for m in maps(standby.pid))
    before = standby.cpu_times().user
    time.sleep(0.3)
    assert standby.cpu_times().user - before < 0.05


def test_real_kills_leave_nothing(tiny: StandbySource, folder: Path) -> None:
    worker = tiny.start(None)
    waiting(tiny)
    before = census(folder)
    for victims in ("w", "wsk", "w"):
        victim_pids = {"w": worker.ready.pid, "s": full(tiny)[0].pid, "k": tiny.ensure_keeper().pid}
        kill(*(victim_pids[name] for name in victims))
        worker = tiny.start(16)
    waiting(tiny)
    assert_census(folder, before)


def test_fifty_kills_leave_nothing(stand_ins: Callable[..., StandbySource], folder: Path) -> None:
    empty = census(folder)
    source = stand_ins()
    worker = source.start(7)
    waiting(source)
    before = census(folder)
    assert before != empty
    assert before["children"] - empty["children"] == 2 + COUNT
    assert before["weights"] - empty["weights"] == 1
    for i in range(50):
        pids = [worker.ready.pid]
        pids += [full(source)[0].pid] if i % 7 == 3 else []
        pids += [source.ensure_keeper().pid] if i % 5 == 2 else []
        kill(*pids)
        worker = source.start(7)
        worker.send(StepPlan(i + 1, [], [], []))
        result = worker.receive(10)
        assert result is not None
        assert result.step == i + 1
    waiting(source)
    assert_census(folder, before)
    source.close()
    assert_census(folder, empty)


def test_the_census_sees_what_is_left(folder: Path) -> None:
    """The twin: one thing too many of each kind."""
    before = census(folder)
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait, daemon=True)
    thread.start()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    file = os.memfd_create("octavo-weights")
    shared = Path("/dev/shm") / f"torch_octavo-test-{os.getpid()}"
    shared.touch()
    (folder / "left").mkdir()
    after = census(folder)
    assert {name for name in before if after[name] > before[name]} == set(before)
    (folder / "left").rmdir()
    shared.unlink()
    os.close(file)
    child.communicate(b"\n")
    gate.set()
    thread.join()
    assert_census(folder, before)


def test_the_death_of_the_keeper_is_the_worker_s(stand_ins: Callable[..., StandbySource]) -> None:
    source = stand_ins()
    worker = source.start(None)
    kill(source.ensure_keeper().pid)
    with pytest.raises(WorkerDiedError, match=r"keeper .*signal 9") as caught:
        worker.receive(None)
    assert caught.value.exit_code == -signal.SIGKILL
    with pytest.raises(WorkerDiedError, match=r"keeper .*signal 9"):
        worker.send(StepPlan(1, [], [], []))
    source.start(None).send(StepPlan(1, [], [], []))


def test_a_recovery_says_what_it_was_made_of(tiny: StandbySource) -> None:
    records: list[RecoveryRecord] = []
    supervisor = Supervisor(tiny, RestartBudget(3, 60.0), records.append)
    worker = tiny.start(None)
    waiting(tiny)
    kill(worker.ready.pid)
    with pytest.raises(WorkerDiedError) as caught:
        worker.receive(None)
    supervisor.on_death(caught.value, 0, 0)
    ready = supervisor.replace(worker, worker.ready.num_blocks).ready
    supervisor.on_recovered()
    phases = records[0].phases
    assert list(phases) == ["end", "process", "open", "load", "allocate", "warm up"]
    assert (phases["load"], phases["warm up"]) == (ready.load_s, ready.warm_up_s)
    assert min(phases.values()) >= 0
    assert 0 < sum(phases.values()) <= records[0].seconds


def test_weights_that_are_others_the_second_time_are_refused(stand_ins: Callable[..., StandbySource]) -> None:
    source = stand_ins("weights change")
    source.start(None)
    kill(source.ensure_keeper().pid)
    with pytest.raises(CheckpointError, match="other weights"):
        source.start(None)


def test_a_keeper_with_which_no_worker_starts_is_replaced(stand_ins: Callable[..., StandbySource]) -> None:
    source = stand_ins("worker dies")
    keepers = []
    for _ in range(4):
        with pytest.raises(WorkerDiedError, match="exit code 5"):
            source.start(None)
        keepers.append(source.ensure_keeper().pid)
    assert keepers[0] == keepers[1] != keepers[2] == keepers[3]


def test_a_restart_that_hangs_is_not_waited_for_as_long_as_a_load(
    stand_ins: Callable[..., StandbySource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("octavo.engine.processes.standby_source.RESTART_FLOOR_S", 0.2)
    monkeypatch.setattr("octavo.engine.processes.standby_source.RESTART_FACTOR", 1.5)
    source = stand_ins("second hangs", timeout_s=LONGER_THAN_A_HANG_S)
    worker = source.start(None)
    with pytest.raises(WorkerDiedError, match="in time"):
        source.start(worker.ready.num_blocks)


def test_a_restart_may_take_as_long_as_what_was_prepared_while_weights_were_loaded(
    stand_ins: Callable[..., StandbySource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("octavo.engine.processes.standby_source.RESTART_FLOOR_S", 0.2)
    source = stand_ins("worker prepares slowly")
    worker = source.start(None)
    source.start(worker.ready.num_blocks)


def test_what_a_worker_refuses_while_weights_are_loaded_is_told(stand_ins: Callable[..., StandbySource]) -> None:
    with pytest.raises(ConfigError, match="device: is gone"):
        stand_ins("worker refuses").start(None)  # long before they are loaded


def test_a_worker_that_dies_while_weights_are_loaded_ends_its_start_and_not_the_loading(
    stand_ins: Callable[..., StandbySource],
) -> None:
    source = stand_ins("first worker dies early")
    with pytest.raises(WorkerDiedError, match="the worker ended: exit code 5"):
        source.start(4)
    keeper = source.ensure_keeper().pid
    worker = source.start(4)
    worker.send(StepPlan(1, [], [], []))
    assert worker.receive(10) is not None
    assert source.ensure_keeper().pid == keeper


@pytest.mark.parametrize(
    ("how", "timeout_s", "words"),
    [("keeper dies", START_S, "the keeper ended: exit code 7"), ("keeper waits", 1.5, "not loaded in time")],
    ids=["dies", "waits"],
)
def test_a_keeper_that_does_not_load_is_told(
    stand_ins: Callable[..., StandbySource], how: str, timeout_s: float, words: str
) -> None:
    source = stand_ins(how, timeout_s)
    for _ in range(2):
        with pytest.raises(WorkerDiedError, match=words):
            source.start(None)


def test_processes_that_were_opened_before_are_those_of_the_first_start(
    stand_ins: Callable[..., StandbySource], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = stand_ins()
    with monkeypatch.context() as patch:
        patch.setattr("octavo.engine.processes.child.subprocess.Popen", refuse)
        source.tend()
    assert source.standbys == []
    source._standbys._not_before_s = 0.0
    source.tend()
    opened = source.ensure_keeper().pid, [standby.channel.pid for standby in source.standbys]
    worker = source.start(None)
    assert (source.ensure_keeper().pid, [worker.ready.pid]) == opened


def refuse(*_args: object, **_options: object) -> None:
    raise OSError("no room for another process")


def test_a_worker_prepares_while_its_weights_are_loaded(stand_ins: Callable[..., StandbySource]) -> None:
    """The keeper has loaded them only when the worker has its config."""
    source = stand_ins("keeper waits for the worker", timeout_s=20.0)
    for _ in range(2):  # and so does one that starts with a new keeper
        worker = source.start(4)
        worker.send(StepPlan(1, [], [], []))
        assert worker.receive(10) is not None
        kill(source.ensure_keeper().pid)


@pytest.mark.parametrize(
    "how", ["keeper waits", "second hangs"], ids=["while the keeper loads", "while a worker starts"]
)
def test_a_start_is_given_up_from_another_thread(stand_ins: Callable[..., StandbySource], how: str) -> None:
    source = stand_ins(how, timeout_s=LONGER_THAN_A_HANG_S)
    if how == "second hangs":
        source.start(4)
    abandoning = threading.Timer(0.5, source.abandon)
    abandoning.start()
    with pytest.raises(WorkerDiedError, match="signal 9"):
        source.start(4)
    with pytest.raises(WorkerDiedError, match="signal 9"):
        source.start(4)
    abandoning.join()


def test_closing_ends_those_that_hear_nothing(stand_ins: Callable[..., StandbySource]) -> None:
    source = stand_ins()
    pids = [source.start(None).ready.pid, *(channel.pid for channel in full(source)), source.ensure_keeper().pid]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    source.close()
    source.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(WorkerDiedError, match="closed"):
        source.start(None)


def test_all_end_with_their_parent(folder: Path) -> None:
    program = f"""
        import os, signal
        from octavo.engine.processes.standby_source import StandbySource
        from octavo.messages import WorkerConfig
        config = WorkerConfig(model="well", max_model_len=1, max_num_seqs=1, max_num_batched_tokens=1, block_size=1)
        source = StandbySource(config, 60.0, keeper={STAND_IN!r}, worker={STAND_IN!r})
        worker = source.start(None)
        source.tend()
        print(worker.ready.pid, source.standbys[0].channel.pid, source.ensure_keeper().pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with tempfile.TemporaryDirectory(dir=folder) as sockets:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            env={**os.environ, "TMPDIR": sockets},
            stdout=subprocess.PIPE,
            timeout=START_S,
        )
        pids = [int(pid) for pid in done.stdout.split()]
        assert len(pids) == 3
        wait_until(
            lambda: not any(is_running(pid) for pid in pids),
            lambda: f"{[pid for pid in pids if is_running(pid)]} of {pids} outlive their parent",
        )


def answers(worker: ProcessWorker | InProcessWorker) -> list[object]:
    """What the plans give, to the bit."""
    for plan in PLANS:
        worker.send(plan)
    results = [worker.receive(30) for _ in PLANS]
    assert [result is not None and result.step for result in results] == [plan.step for plan in PLANS]
    assert results[1] is not None
    assert results[1].sampled
    return [(result.sampled, result.prompt_scores) for result in results if result is not None]


def are_stopped(pids: list[int]) -> bool:
    return all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in pids)


def full(source: StandbySource) -> list[ProcessChannel]:
    """The standbys, once there are as many as there should be."""
    while len(source.standbys) < COUNT:
        source._standbys._not_before_s = 0.0
        source.tend()
    return [standby.channel for standby in source.standbys]


def waiting(source: StandbySource) -> ProcessChannel:
    """The next standby, once all have imported what they need."""
    full(source)
    wait_until(lambda: all(standby.prepared for standby in source.standbys))
    return source.standbys[0].channel


def kill(*pids: int) -> None:
    """End them, and see that they have ended."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid: int) -> bool:
    """Whether there is more of `pid` than a zombie: its other threads may end after the first."""
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1 or psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
        return False


class Map:
    """A line of /proc/PID/maps."""

    def __init__(self, line: str) -> None:
        span, self.perms, _, _, _, *rest = line.split(maxsplit=5)
        begin, end = (int(part, 16) for part in span.split("-"))
        self.size = end - begin
        self.path = rest[0] if rest else ""


def maps(pid: int) -> list[Map]:
    return [Map(line.strip()) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]


def census(folder: Path) -> dict[str, int]:
    """What a process that leaks would have more of: `weights` are blocks, `shared` the segments of Python and torch."""
    own = psutil.Process()
    processes = [own, *own.children(recursive=True)]
    files = [link for process in processes for link in links(process.pid)]
    blocks: set[int] = set()
    for link in files:
        with suppress(FileNotFoundError):  # a process that starts closes what it has read
            if "memfd:octavo-weights" in os.readlink(link):
                blocks.add(os.stat(link).st_ino)
    return {
        "children": len(processes) - 1,
        "files": own.num_fds(),
        "threads": own.num_threads(),
        "weights": len(blocks),
        "shared": len([name for name in os.listdir("/dev/shm") if name.startswith(("psm_", "torch_"))]),
        "folders": len(list(folder.iterdir())),
    }


def assert_census(folder: Path, expected: dict[str, int]) -> None:
    """Ask for `expected` within a minute: a thread that has been joined takes a moment to be gone from /proc."""
    deadline = time.monotonic() + START_S
    while (found := census(folder)) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found == expected


def links(pid: int) -> list[str]:
    """Open files of `pid`; the one that lists them is gone before it can be read."""
    folder = f"/proc/{pid}/fd"
    return [f"{folder}/{name}" for name in os.listdir(folder) if os.path.lexists(f"{folder}/{name}")]

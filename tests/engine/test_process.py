"""The worker's process: started, spoken to, ended; and what is told when it ends by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from engine.harness import config, request
from octavo.engine import Engine
from octavo.engine.processes.channel import ProcessChannel
from octavo.engine.processes.worker_process import ProcessSource, ProcessWorker
from octavo.errors import WorkerDiedError
from octavo.messages import Admission, Chunk, StepPlan, WorkerConfig
from octavo.sampling import SamplingParams
from waits import wait_until

TESTS = Path(__file__).parent.parent
PLAN = StepPlan(1, [], [Admission(0, [1], 1, SamplingParams(temperature=0), [])], [Chunk(0, 0, 1, [0], True)])


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., ProcessWorker]]:
    """Starts a stand-in; everything it leaves behind is found after the test."""
    folder = Path(tempfile.mkdtemp(prefix="o", dir="/tmp"))
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    workers: list[ProcessWorker] = []

    def begin(how: str, timeout_s: float = 30.0) -> ProcessWorker:
        limits = WorkerConfig(
            model=how, max_model_len=64, max_num_seqs=4, max_num_batched_tokens=64, block_size=16, num_blocks=4
        )
        workers.append(ProcessWorker(limits, timeout_s, ProcessChannel("engine.children")))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.close()
        worker.close()
        with pytest.raises(ProcessLookupError):
            os.kill(worker.ready.pid, 0)
    folder.rmdir()


def test_plans_go_there_and_results_come_back(start: Callable[..., ProcessWorker]) -> None:
    worker = start("well")
    assert worker.ready.device == "stand-in"
    assert worker.ready.pid != os.getpid()
    assert worker.receive(0) is None
    worker.send(PLAN)
    result = worker.receive(10)
    assert result is not None
    assert (result.step, result.sampled[0].token_id) == (1, 5)
    before = time.monotonic()
    assert worker.receive(0.15) is None
    assert time.monotonic() - before > 0.1


def test_an_engine_runs_on_it(start: Callable[..., ProcessWorker]) -> None:
    engine = Engine(config(num_blocks=4, max_model_len=64), start("well"))
    engine.add(request("a", [1, 2, 3], max_tokens=4))
    tokens = []
    while engine.has_work:
        tokens += [token.token_id for update in engine.step(10) for token in update.tokens]
    assert tokens == [5, 5, 5, 5]


def test_nothing_is_needed_of_any_file_system(start: Callable[..., ProcessWorker]) -> None:
    start("well")
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_a_fault_while_loading_is_told(start: Callable[..., ProcessWorker]) -> None:
    with pytest.raises(WorkerDiedError, match="no such model\nTraceback: somewhere"):
        start("fault")


def test_an_exit_while_loading_is_told_with_the_last_output(start: Callable[..., ProcessWorker]) -> None:
    with pytest.raises(WorkerDiedError, match=r"exit code 7; its last output:\nthe disk is on fire") as caught:
        start("exit")
    assert caught.value.exit_code == 7


def test_a_kill_while_loading_says_that_memory_may_be_the_reason(start: Callable[..., ProcessWorker]) -> None:
    with pytest.raises(WorkerDiedError, match=r"signal 9.* memory") as caught:
        start("killed")
    assert caught.value.killer is signal.SIGKILL


def test_a_module_that_cannot_be_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = WorkerConfig(model="", max_model_len=1, max_num_seqs=1, max_num_batched_tokens=1, block_size=1)
    with pytest.raises(WorkerDiedError, match="No module named"):
        ProcessWorker(limits, 30, ProcessChannel("octavo.absent"))


def test_a_child_that_is_not_ready_in_time_is_ended(start: Callable[..., ProcessWorker]) -> None:
    with pytest.raises(WorkerDiedError, match="worker_start_timeout"):
        start("silent", 2.0)


def test_unreadable_words_are_told(start: Callable[..., ProcessWorker]) -> None:
    with pytest.raises(WorkerDiedError, match="cannot be read"):
        start("garbage")


@pytest.mark.parametrize("timeout_s", [None, 600.0], ids=["for-ever", "bounded"])
def test_a_kill_is_noticed_while_receiving(start: Callable[..., ProcessWorker], timeout_s: float | None) -> None:
    worker = start("hang")
    worker.send(PLAN)

    def kill() -> None:
        time.sleep(0.3)
        os.kill(worker.ready.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(WorkerDiedError, match="signal 9") as caught:
        worker.receive(timeout_s)
    killer.join()
    assert caught.value.exit_code == -9


@pytest.mark.parametrize(
    ("how", "words", "code"),
    [("segfault", "signal 11", -11), ("late-fault", "illegal memory access", 1)],
    ids=["segfault", "late-fault"],
)
def test_a_death_in_a_step_says_why(start: Callable[..., ProcessWorker], how: str, words: str, code: int) -> None:
    worker = start(how)
    worker.send(PLAN)
    with pytest.raises(WorkerDiedError, match=words) as caught:
        worker.receive(10)
    assert caught.value.exit_code == code


def test_a_fault_that_nobody_waited_for_is_told_when_sending(start: Callable[..., ProcessWorker]) -> None:
    worker = start("late-fault")
    worker.send(PLAN)
    wait_until(lambda: not is_running(worker.ready.pid))
    # its other threads may end a moment later than its first, and the system tells when all have
    with pytest.raises(WorkerDiedError, match="illegal memory access"):
        repeat(lambda: worker.send(PLAN))


def test_nothing_is_sent_to_the_dead(start: Callable[..., ProcessWorker]) -> None:
    worker = start("well")
    os.kill(worker.ready.pid, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="signal 9"):
        repeat(lambda: worker.send(PLAN))


def test_a_look_at_the_dead_says_so(start: Callable[..., ProcessWorker]) -> None:
    worker = start("well")
    os.kill(worker.ready.pid, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="signal 9"):
        repeat(lambda: worker.receive(0))


def test_a_closed_worker_says_so(start: Callable[..., ProcessWorker]) -> None:
    worker = start("well")
    worker.close()
    with pytest.raises(WorkerDiedError, match="was closed"):
        worker.send(PLAN)
    with pytest.raises(WorkerDiedError, match="was closed"):
        worker.receive(0)


def test_a_child_that_hears_nothing_is_ended(start: Callable[..., ProcessWorker]) -> None:
    worker = start("stubborn")
    os.kill(worker.ready.pid, signal.SIGSTOP)
    worker.close()
    assert not psutil.pid_exists(worker.ready.pid)


def test_what_the_dead_had_answered_is_received_before_their_death(start: Callable[..., ProcessWorker]) -> None:
    worker = start("dies-after-answering")
    worker.send(PLAN)
    wait_until(lambda: not is_running(worker.ready.pid))
    # its other threads may end a moment later than its first, and the system tells when all have
    with pytest.raises(WorkerDiedError, match="signal 9"):
        repeat(lambda: worker.send(PLAN))
    result = worker.receive(None)
    assert result is not None
    assert result.step == 1
    with pytest.raises(WorkerDiedError, match="signal 9"):
        worker.receive(None)


def test_a_start_is_given_up_from_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    limits = WorkerConfig(model="silent", max_model_len=64, max_num_seqs=4, max_num_batched_tokens=64, block_size=16)
    source = ProcessSource(limits, 600.0, module="engine.children")
    abandoning = threading.Timer(0.5, source.abandon)
    abandoning.start()
    for _ in range(2):
        with pytest.raises(WorkerDiedError, match="signal 9"):  # and not that it has taken all its time
            source.start(None)
    abandoning.join()


def test_a_source_starts_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    limits = WorkerConfig(model="well", max_model_len=64, max_num_seqs=4, max_num_batched_tokens=64, block_size=16)
    source = ProcessSource(limits, 30.0, module="engine.children")
    first = source.start(None)
    second = source.start(4)
    assert not is_running(first.ready.pid)
    assert is_running(second.ready.pid)
    source.close()
    source.close()
    assert not is_running(second.ready.pid)


def test_a_folder_for_temporary_files_that_is_gone_is_not_missed(
    start: Callable[..., ProcessWorker], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    monkeypatch.setenv("TMPDIR", str(gone))
    monkeypatch.setattr(tempfile, "tempdir", str(gone))
    assert start("well").ready.device == "stand-in"


def test_the_child_does_not_outlive_a_killed_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import time\n"
        "from octavo.engine.processes.channel import ProcessChannel\n"
        "from octavo.engine.processes.worker_process import ProcessWorker\n"
        "from octavo.messages import WorkerConfig\n"
        "limits = WorkerConfig(model='well', max_model_len=1, max_num_seqs=1, max_num_batched_tokens=1, block_size=1)\n"
        "print(ProcessWorker(limits, 30, ProcessChannel('engine.children')).ready.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with tempfile.TemporaryDirectory(prefix="o", dir="/tmp") as folder:
        environment = {**os.environ, "PYTHONPATH": str(TESTS), "TMPDIR": folder}
        parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment)
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        parent.stdout.close()
        wait_until(lambda: not is_running(child))


def repeat(call: Callable[[], object]) -> None:
    """Call again and again until it raises: the system takes a moment to end a process."""
    wait_until(call)


def is_running(pid: int) -> bool:
    """Whether `pid` runs; a zombie, whose new parent has not looked yet, does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False

"""The worker as a process, at the other end of the engine's `ProcessWorker`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, cast

import pytest

from engine.test_process import is_running
from octavo.config import EngineConfig
from octavo.engine import Engine, Request
from octavo.engine.processes.channel import ProcessChannel
from octavo.engine.processes.worker_process import ProcessWorker
from octavo.engine.update import FinishReason
from octavo.errors import WorkerDiedError
from octavo.messages import Admission, Chunk, StepPlan
from octavo.sampling import SamplingParams
from octavo.wire import Wire
from octavo.worker.launched import Launched
from octavo.worker.process import _message_comes_first
from waits import wait_until
from worker.toy import VOCAB, toy_config, toy_runner

TESTS = Path(__file__).parents[1]
START_S = 60.0
SAMPLING = SamplingParams(seed=5, logprobs=2, prompt_logprobs=1, max_tokens=None)
PLANS = [
    StepPlan(1, [], [Admission(0, [1, 2, 3], 3, SAMPLING, [])], [Chunk(0, 0, 3, [4], True)]),
    StepPlan(2, [], [], [Chunk(0, 3, 1, [], True)]),
    StepPlan(3, [0], [], []),
]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, warm: None) -> Iterator[ProcessWorker]:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    process = ProcessWorker(toy_config(), START_S, ProcessChannel("worker.toy_worker"))
    yield process
    process.close()


def test_a_process_gives_what_a_runner_gives(worker: ProcessWorker) -> None:
    runner = toy_runner()
    for plan in PLANS:
        worker.send(plan)
    for plan in PLANS:
        got, expected = worker.receive(10), runner.run(plan)
        assert got is not None
        assert (got.step, got.sampled, got.prompt_scores) == (expected.step, expected.sampled, expected.prompt_scores)
    assert worker.receive(0) is None
    assert (worker.ready.device, worker.ready.num_blocks) == ("toy", 30)


def test_a_killed_worker_is_an_error(worker: ProcessWorker) -> None:
    os.kill(worker.ready.pid, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="signal 9") as error:
        worker.receive(None)
    assert error.value.exit_code == -signal.SIGKILL


def test_a_killed_worker_ends_every_request_of_the_engine(worker: ProcessWorker) -> None:
    config = EngineConfig(
        vocab_size=VOCAB,
        eos_token_ids=(),
        max_model_len=40,
        max_num_batched_tokens=64,
        max_num_seqs=4,
        block_size=4,
        num_blocks=30,
    )
    engine = Engine(config, worker)
    for i in range(6):
        engine.add(Request(f"request-{i}", [i + 1, 2], SamplingParams(seed=i, max_tokens=30)))
    for _ in range(3):
        engine.step()
    os.kill(worker.ready.pid, signal.SIGKILL)
    updates = []
    while engine.has_work:
        updates += engine.step()
    ended = {update.request_id: update for update in updates if update.finish_reason is not None}
    assert sorted(ended) == [f"request-{i}" for i in range(6)]
    assert {update.finish_reason for update in ended.values()} == {FinishReason.ERROR}
    assert all(isinstance(update.error, WorkerDiedError) for update in ended.values())


def test_a_plan_that_breaks_the_contract_is_a_fault_that_names_it(worker: ProcessWorker) -> None:
    worker.send(StepPlan(1, [], [], [Chunk(3, 0, 1, [0], True)]))
    with pytest.raises(WorkerDiedError, match=r"PlanError: .*slot 3") as error:
        worker.receive(10)
    assert "Traceback" in error.value.message
    assert error.value.exit_code == 1


def test_a_message_that_is_no_plan_is_a_fault(worker: ProcessWorker) -> None:
    worker._channel._wire.send(b"\xc1 no MessagePack")
    with pytest.raises(WorkerDiedError, match="DecodeError") as error:
        worker.receive(10)
    assert error.value.exit_code == 1


def test_ctrl_c_is_left_to_the_parent(worker: ProcessWorker) -> None:
    os.kill(worker.ready.pid, signal.SIGINT)
    worker.send(PLANS[0])
    assert worker.receive(10) is not None


def test_sigterm_ends_it(worker: ProcessWorker) -> None:
    os.kill(worker.ready.pid, signal.SIGTERM)
    with pytest.raises(WorkerDiedError) as error:
        worker.receive(10)
    assert error.value.exit_code == -signal.SIGTERM


def test_it_ends_with_its_parent_and_leaves_no_file(tmp_path: Path) -> None:
    program = """
        import os, signal
        from octavo.engine.processes.channel import ProcessChannel
        from octavo.engine.processes.worker_process import ProcessWorker
        from worker.toy import toy_config
        worker = ProcessWorker(toy_config(), 60.0, ProcessChannel("worker.toy_worker"))
        print(worker.ready.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        timeout=START_S,
    )
    pid = int(done.stdout)
    wait_until(lambda: not is_running(pid), lambda: "the worker outlives its parent")
    assert not list(tmp_path.iterdir())


class SlowStep:
    """A step that is done after `looks` looks."""

    is_sampled = True

    def __init__(self, looks: int) -> None:
        self._left = looks

    @property
    def done(self) -> bool:
        self._left -= 1
        return self._left < 0


class Mailbox:
    """A wire on which a plan arrives after `looks` looks."""

    def __init__(self, looks: int) -> None:
        self._left = looks

    def wait(self, timeout_s: float) -> bool:
        assert timeout_s == 0
        self._left -= 1
        return self._left < 0


@pytest.mark.parametrize(
    ("step", "plan", "expected"), [(0, 0, False), (3, 0, True), (3, 2, True), (3, 3, False), (3, 99, False)]
)
def test_a_plan_is_taken_while_the_step_before_runs(step: int, plan: int, expected: bool) -> None:
    """A result that is ready goes out first."""
    assert _message_comes_first(cast("Wire", Mailbox(plan)), cast("Launched", SlowStep(step))) is expected


def test_a_step_without_masks_waits_for_them_alone() -> None:
    """Nothing else can end it, so that nobody looks again and again."""

    class Waiting:
        is_sampled = False

    class Silent:
        waits: ClassVar[list[float | None]] = []

        def wait(self, timeout_s: float | None) -> bool:
            self.waits.append(timeout_s)
            return True

    assert _message_comes_first(cast("Wire", Silent()), cast("Launched", Waiting()))
    assert Silent.waits == [None]

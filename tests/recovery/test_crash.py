"""The crash file: what a worker died with is written down whole, is bounded, says no user text, and can be run again."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import logging
import os
import re
import stat
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.harness import Outcome, alone, collect, config, finish, request
from octavo.config import EngineConfig
from octavo.engine import Engine, Request
from octavo.engine.acceptance import accept
from octavo.engine.recovery import crash_log
from octavo.engine.recovery.crash import Crash, read_crash
from octavo.engine.recovery.crash_log import CrashLog
from octavo.engine.recovery.fault_injection import FaultInjector, parse_fault
from octavo.engine.recovery.replay import histories, preparation, recorded
from octavo.engine.recovery.supervisor import RestartBudget, Supervisor
from octavo.engine.scheduler import Scheduler
from octavo.engine.statistics import Counters
from octavo.errors import ConfigError, DeathCause, WorkerDiedError
from octavo.messages import FaultKind, StepResult, WorkerConfig
from octavo.server.errors import error_object
from octavo.testing.mock_worker import MockSource, MockWorker

SECRET = [71, 72, 73, 74]
"""Tokens of a prompt."""


def worker_config(limits: EngineConfig) -> WorkerConfig:
    return WorkerConfig(
        model="mock",
        max_model_len=limits.max_model_len,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        block_size=limits.block_size,
    )


def logged(limits: EngineConfig, crashes: CrashLog, *faults: str) -> Engine:
    """An engine of mock workers with these faults, whose deaths `crashes` gets."""
    source = MockSource(limits)
    supervisor = Supervisor(source, RestartBudget(100, 600.0))
    injector = FaultInjector([parse_fault(fault) for fault in faults])
    return Engine(limits, source.start(None), supervisor=supervisor, injector=injector, crashes=crashes)


def crash_of(folder: Path, limits: EngineConfig, asked: Sequence[Request], fault: str, *, keep: bool = False) -> Crash:
    """Run `asked` with a fault, and read the one crash that gives."""
    engine = logged(limits, CrashLog(folder, worker_config(limits), keep_prompts=keep), fault)
    outcomes: dict[str, Outcome] = {}
    for each in asked[::2]:
        engine.add(each)
    collect(outcomes, engine.step())
    for each in asked[1::2]:
        engine.add(each)
    finish(engine, outcomes)
    (path,) = folder.iterdir()
    return read_crash(path)


def load(count: int) -> list[Request]:
    """Requests half of whose prompts begin alike."""
    return [
        request(
            f"r{i}",
            [*range(i % 2 * 20), *range(i, 2 * i + 5)],
            temperature=1.0,
            seed=i,
            max_tokens=5 + i % 7,
            logit_bias={50 + i: 1.5} if i % 3 else {},
        )
        for i in range(count)
    ]


def replayed(crash: Crash, limits: EngineConfig) -> list[StepResult]:
    """What a fresh mock worker answers to the plans of `crash`; it asserts that their context is what they take it for."""
    is_recurrent = limits.num_snapshots is not None
    if is_recurrent:
        limits = dataclasses.replace(limits, num_snapshots=len(crash.requests))
    worker = MockWorker(limits, first_starts=1)
    history = histories(limits.block_size, limits.vocab_size, 7)
    before = preparation(crash, history, is_recurrent=is_recurrent)
    plans = recorded(crash, history, len(before) + 1, faults=False, is_recurrent=is_recurrent)
    results = []
    for plan in [*before, *plans]:
        worker.send(plan)
        result = worker.receive(0)
        assert result is not None
        results.append(result)
    return results[len(before) :]


def test_a_crash_file_says_what_the_worker_died_with(tmp_path: Path) -> None:
    limits = config(max_num_batched_tokens=40, max_num_seqs=6)
    crash = crash_of(tmp_path / "crashes", limits, load(12), "kill@step:5")
    assert (crash.cause, crash.exit_code, crash.restarts) == (DeathCause.SIGNAL, -9, 0)
    assert crash.message == "the worker was told to die"
    assert [plan.step for plan in crash.plans] == [crash.step, crash.step + 1] == [4, 5]
    assert [fault.kind for plan in crash.plans for fault in plan.faults] == [FaultKind.KILL]
    for plan in crash.plans:
        assert plan.num_tokens == sum(chunk.count for chunk in plan.chunks) <= 40
        assert (plan.num_chunks, plan.num_sampled) == (len(plan.chunks), sum(chunk.sample for chunk in plan.chunks))
    slots = {chunk.slot for plan in crash.plans for chunk in plan.chunks}
    assert slots == {each.slot for each in crash.requests}
    assert all(each.num_tokens > each.computed for each in crash.requests)
    assert crash.worker.num_blocks == crash.ready.num_blocks == limits.num_blocks
    assert {"octavo", "python", "torch"} <= set(crash.versions)


@pytest.mark.parametrize("keep", [False, True], ids=["lengths", "tokens"])
def test_the_plans_run_again_on_a_fresh_worker(tmp_path: Path, keep: bool) -> None:
    limits = config(max_num_batched_tokens=40, max_num_seqs=6, block_size=4)
    asked = load(12)
    crash = crash_of(tmp_path, limits, asked, "kill@step:5", keep=keep)
    results = replayed(crash, limits)
    assert [len(result.sampled) for result in results] == [plan.num_sampled for plan in crash.plans]
    if keep:
        compare(crash, results, asked, limits)


def compare(crash: Crash, results: Sequence[StepResult], asked: Sequence[Request], limits: EngineConfig) -> None:
    """Assert that the tokens sampled again are those of the requests alone."""
    by_id = {each.request_id: each for each in asked}
    for each in crash.requests:
        made = each.num_tokens - each.num_prompt_tokens
        expected = alone(by_id[each.request_id], limits).token_ids[made:]
        others = [other.first_step for other in crash.requests if other.slot == each.slot]
        end = min((step for step in others if step > each.first_step), default=crash.plans[-1].step + 1)
        steps = zip(crash.plans, results, strict=True)
        own = [result for plan, result in steps if each.first_step <= plan.step < end]
        tokens = [token.token_id for result in own for token in result.sampled if token.slot == each.slot]
        assert tokens[: len(expected)] == expected[: len(tokens)]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_drawn_crashes_run_again(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    limits = config(
        max_num_batched_tokens=data.draw(st.integers(8, 200)),
        max_num_seqs=data.draw(st.integers(2, 20)),
        num_blocks=data.draw(st.integers(20, 60)),
        block_size=data.draw(st.sampled_from([4, 16])),
        max_model_len=100,
        prefix_caching=data.draw(st.booleans()),
        num_snapshots=data.draw(st.sampled_from([None, None, 0, 4])),
    )
    asked = [each for each in load(20) if len(each.prompt_token_ids) < limits.pool_tokens - 20]
    folder = tmp_path_factory.mktemp("crashes")
    crash = crash_of(folder, limits, asked, f"kill@step:{data.draw(st.integers(1, 12))}", keep=data.draw(st.booleans()))
    results = replayed(crash, limits)
    assert [len(result.sampled) for result in results] == [plan.num_sampled for plan in crash.plans]


def test_a_replay_without_what_was_computed_before_is_noticed(tmp_path: Path) -> None:
    """The twin: the mock worker looks at what it reads."""
    limits = config(max_num_batched_tokens=40, max_num_seqs=6)
    crash = crash_of(tmp_path, limits, load(12), "kill@step:5")
    history = histories(limits.block_size, limits.vocab_size, 7)
    with pytest.raises(AssertionError, match="other tokens"):
        MockWorker(limits, first_starts=1).send(recorded(crash, history, 1, faults=False)[0])


def test_no_user_text_without_the_flag(tmp_path: Path) -> None:
    limits = config()
    private = request("r0", SECRET * 5, stop=["swordfish"], stop_token_ids=[77], logit_bias={78: 2.0}, max_tokens=9)
    told = {
        keep: msgspec.to_builtins(crash_of(tmp_path / str(keep), limits, [private], "kill@step:3", keep=keep))
        for keep in (False, True)
    }
    (hidden,), (shown,) = told[False]["requests"], told[True]["requests"]
    assert shown["token_ids"][:20] == SECRET * 5
    assert shown["sampling"]["stop_token_ids"] == [77]
    assert hidden["token_ids"] is None
    assert hidden["num_tokens"] == shown["num_tokens"] == len(shown["token_ids"])
    assert hidden["sampling"]["logit_bias"] == {0: 2.0}
    assert (hidden["sampling"]["stop_token_ids"], hidden["stop_token_ids"]) == ([0], [0, 1])
    assert "swordfish" not in json.dumps([hidden, shown])


def test_writing_is_no_delay(tmp_path: Path) -> None:
    """250 requests that fill 100,000 blocks, tokens kept, in half of the seconds that a recovery is to take, of the processor's time."""
    limits = config(num_blocks=100_000, max_num_seqs=250, max_num_batched_tokens=2**21, max_model_len=8000)
    crashes = CrashLog(tmp_path, worker_config(limits), keep_prompts=True)
    scheduler = Scheduler(limits, Counters())
    for i in range(250):
        scheduler.enqueue(accept(request(f"r{i}", [i % 90, *range(90)] * 65), limits))
    step = scheduler.plan(0.0)
    assert step is not None
    assert len(step.chunks) == 250
    began_s = time.process_time()
    path = crashes.write(WorkerDiedError("gone"), MockWorker(limits), [step], number=1, restarts=0)
    assert path is not None
    assert time.process_time() - began_s < 2.5


def test_only_this_user_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "crashes"
    crash_of(folder, config(), load(2), "kill@step:2")
    (crash,) = folder.iterdir()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, crash, crash / "crash.json")]
    assert modes == [0o700, 0o700, 0o600]


def test_the_oldest_folders_go_and_nothing_else(tmp_path: Path) -> None:
    limits = config()
    (tmp_path / "mine").mkdir()
    crashes = CrashLog(tmp_path, worker_config(limits), most=3)
    engine = logged(limits, crashes, *(f"kill@step:{step}" for step in range(1, 8)))
    engine.add(request("r0", range(20), max_tokens=20))
    written: list[str] = []
    write = crashes.write
    crashes.write = lambda *args, **kwargs: written.append(write(*args, **kwargs).name)  # type: ignore[method-assign, union-attr]
    finish(engine, {})
    assert len(written) == 7
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [*written[-3:], "mine"]


class FullDisk(io.BytesIO):
    """Takes a little, then nothing."""

    def write(self, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def full_disk(monkeypatch: pytest.MonkeyPatch, _folder: Path) -> None:
    def opened(file: int, mode: str) -> io.BytesIO:
        os.write(file, b'{"time":')
        os.close(file)
        return FullDisk()

    monkeypatch.setattr(crash_log, "open", opened, raising=False)


def no_folder(_monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.write_text("a file is where the folder should be")


def too_large(monkeypatch: pytest.MonkeyPatch, _folder: Path) -> None:
    monkeypatch.setattr(crash_log, "MAX_BYTES", 100)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [(full_disk, "No space left on device"), (no_folder, "File exists"), (too_large, "more than 100")],
    ids=["full-disk", "no-folder", "too-large"],
)
def test_a_crash_file_that_cannot_be_written_is_one_line_and_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: object, words: str
) -> None:
    folder = tmp_path / "crashes"
    trouble(monkeypatch, folder)  # type: ignore[operator]
    limits, asked = config(), load(8)
    engine = logged(limits, CrashLog(folder, worker_config(limits)), "kill@step:3", "segfault@request:r5")
    for each in asked:
        engine.add(each)
    with caplog.at_level(logging.WARNING):
        outcomes = finish(engine, {})
    for each in asked[:5]:
        assert outcomes[each.request_id] == alone(each, limits)
    assert "crash file" not in outcomes["r5"].error.message  # type: ignore[union-attr]
    lines = [line for line in caplog.messages if line.startswith("no crash file could be written")]
    assert words in lines[0]
    assert all("\n" not in line for line in lines)
    assert folder.is_file() or not folder.exists() or list(folder.iterdir()) == []


def test_tokens_are_left_out_where_they_make_the_file_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crash_log, "MAX_BYTES", 4500)
    crash = crash_of(tmp_path, config(), [request("r0", [9] * 2000)], "kill@step:1", keep=True)
    assert crash.requests[0].token_ids is None
    assert crash.requests[0].num_tokens == 2000


def test_the_request_that_kills_and_the_recovery_name_the_crash_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits, asked = config(), load(8)
    engine = logged(limits, CrashLog(tmp_path, worker_config(limits)), "segfault@request:r5")
    for each in asked:
        engine.add(each)
    with caplog.at_level(logging.WARNING):
        outcomes = finish(engine, {})
    crash = outcomes["r5"].error.message.rpartition("crash file ")[2]  # type: ignore[union-attr]
    assert "r5" in [each.request_id for each in read_crash(tmp_path / crash).requests]
    recoveries = [line for line in caplog.messages if line.startswith("recovered from signal")]
    assert recoveries[-1].endswith(f"crash file {tmp_path / crash}")


def test_a_worker_that_cannot_start_is_written_down_too(tmp_path: Path) -> None:
    class Failing(MockSource):
        """Its second start fails."""

        starts = 0

        def start(self, num_blocks: int | None) -> MockWorker:
            self.starts += 1
            if self.starts == 2:
                raise WorkerDiedError("the worker ended: exit code 5; its last output:\nno device", exit_code=5)
            return super().start(num_blocks)

    limits = config()
    source = Failing(limits)
    supervisor = Supervisor(source, RestartBudget(100, 600.0))
    crashes = CrashLog(tmp_path, worker_config(limits))
    injector = FaultInjector([parse_fault("kill@step:2")])
    engine = Engine(limits, source.start(None), supervisor=supervisor, injector=injector, crashes=crashes)
    asked = request("r0", range(20), max_tokens=5)
    engine.add(asked)
    assert finish(engine, {})["r0"] == alone(asked, limits)
    (killed, failed) = [read_crash(folder) for folder in sorted(tmp_path.iterdir())]
    assert killed.cause is DeathCause.SIGNAL
    assert (failed.cause, failed.exit_code, failed.output) == (DeathCause.START, 5, ["no device"])
    assert (failed.message, failed.plans, failed.restarts) == ("the worker ended: exit code 5", [], 1)
    assert replayed(failed, limits) == []


def test_the_answer_to_a_client_names_the_folder_and_no_path(tmp_path: Path) -> None:
    limits = config()
    engine = logged(limits, CrashLog(tmp_path, worker_config(limits)), "segfault@request:r0")
    engine.add(request("r0", range(20)))
    error = finish(engine, {})["r0"].error
    assert error is not None
    said = error_object(error, "some-id")["error"]["message"]
    assert re.search(r"crash file \d{8}T\d{6}\.\d{6}Z-signal-step1 \(request id: some-id\)$", said)
    assert str(tmp_path) not in said


def test_what_is_no_crash_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_crash(tmp_path)
    (tmp_path / "crash.json").write_text('{"time": 3}')
    with pytest.raises(ConfigError, match="version"):
        read_crash(tmp_path)

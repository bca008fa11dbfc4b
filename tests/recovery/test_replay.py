"""`octavo replay`: a crash of a real worker happens again in a fresh one, and does not without its cause."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine.harness import finish
from octavo.cli.main import main
from octavo.config import Settings
from octavo.engine import Request
from octavo.engine.recovery.crash import Crash, read_crash
from octavo.engine.recovery.replay import histories, preparation, recorded
from octavo.errors import DeathCause, WorkerDiedError
from octavo.sampling import SamplingParams
from octavo.startup import Runtime, in_processes, in_this_process, start


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The crash folder of a worker that raised in its step 4, with octavo-tiny."""
    crashes = tmp_path_factory.mktemp("crashes")
    settings = Settings(
        device="cpu",
        max_model_len=256,
        max_num_seqs=4,
        max_num_batched_tokens=64,
        num_gpu_blocks_override=64,
        cpu_threads=1,
        inject_fault=("raise@step:4",),
        max_worker_restarts=0,
        crash_dir=str(crashes),
    )
    runtime = start(settings, in_processes)
    try:
        engine = runtime.engine()
        for i in range(3):
            sampling = SamplingParams(temperature=1.0, seed=i, max_tokens=20, ignore_eos=True)
            engine.add(Request(f"r{i}", list(range(5, 75 + i)), sampling))
        while engine.has_work:
            engine.step()
        assert isinstance(engine.death, WorkerDiedError)
    finally:
        runtime.close()
    (crash,) = crashes.iterdir()
    return crash


def test_the_crash_file_has_stack_and_shapes(folder: Path) -> None:
    crash = read_crash(folder)
    assert (crash.cause, crash.exit_code) == (DeathCause.FAULT, 1)
    assert "InjectedError" in crash.message
    assert "worker/faults.py" in crash.traceback
    assert any("kv cache" in line for line in crash.output), crash.output
    assert 4 in [plan.step for plan in crash.plans]
    assert crash.ready.device.startswith("CPU")


def test_the_crash_happens_again(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(folder)]) == 1
    said = capfd.readouterr().out
    assert "died again (fault, exit code 1): the worker met a fault: InjectedError" in said
    assert "with random tokens of the recorded lengths" in said


def test_without_its_cause_the_worker_survives(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(folder), "--no-faults", "--model", "octavo-tiny"]) == 0
    assert "survived" in capfd.readouterr().out


def test_kept_tokens_are_computed_again_to_the_same_tokens(tmp_path: Path) -> None:
    """In this process: a fault in the middle, then what the plans sample again beside what the requests went on with."""
    settings = Settings(
        device="cpu",
        max_model_len=256,
        max_num_seqs=6,
        max_num_batched_tokens=64,
        num_gpu_blocks_override=64,
        cpu_threads=1,
        inject_fault=("raise@step:9",),
        crash_dir=str(tmp_path),
        crash_keep_prompts=True,
    )
    runtime = start(settings, in_this_process)
    try:
        engine = runtime.engine()
        asked = [
            Request(f"r{i}", list(range(5, 45 + 7 * i)), SamplingParams(temperature=1.0, seed=i, ignore_eos=True))
            for i in range(6)
        ]
        for each in asked:
            engine.add(each)
        outcomes = finish(engine, {})
        (folder,) = tmp_path.iterdir()
        crash = read_crash(folder)
        again = sampled_again(runtime, crash)
        bare = [msgspec.structs.replace(each, token_ids=None) for each in crash.requests]
        others = sampled_again(runtime, msgspec.structs.replace(crash, requests=bare))
    finally:
        runtime.close()
    expected = {
        each.request_id: outcomes[each.request_id].token_ids[each.num_tokens - each.num_prompt_tokens :]
        for each in crash.requests
    }
    assert again == {name: expected[name][: len(tokens)] for name, tokens in again.items()}
    assert others != again  # the twin: random tokens give other tokens
    assert sum(map(len, again.values())) == sum(plan.num_sampled for plan in crash.plans) > 3


def sampled_again(runtime: Runtime, crash: Crash) -> dict[str, list[int]]:
    """Request -> the tokens that the plans of `crash` sample for it in a fresh worker."""
    link = runtime.source.start(crash.worker.num_blocks)
    history = histories(crash.worker.block_size, runtime.config.vocab_size, 0)
    before = preparation(crash, history)
    assert before
    tokens: dict[int, list[int]] = {each.slot: [] for each in crash.requests}
    for plan in [*before, *recorded(crash, history, len(before) + 1, faults=False)]:
        link.send(plan)
        result = link.receive(None)
        assert result is not None
        for token in result.sampled:
            tokens[token.slot].append(token.token_id)
    return {each.request_id: tokens[each.slot] for each in crash.requests}


def test_a_sanitizer_that_is_not_there_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(["replay", str(folder), "--sanitizer", "memcheck"]) == 2
    assert "compute-sanitizer is not on the PATH" in capsys.readouterr().err


def test_the_sanitizer_runs_the_worker(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One that says with what it was called, and gives up."""
    tool = tmp_path / "compute-sanitizer"
    tool.write_text('#!/bin/sh\necho "called: $*"\nexit 9\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert main(["replay", str(folder), "--sanitizer", "memcheck"]) == 1
    out, err = capfd.readouterr()
    assert "died again (exit, exit code 9)" in out
    assert "called: --tool memcheck --target-processes all" in err
    assert "-m octavo.worker --device cpu" in err


def test_the_sanitizer_may_sum_up(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One that runs what it is given to its end."""
    tool = tmp_path / "compute-sanitizer"
    tool.write_text('#!/bin/sh\nshift 4\n"$@"\necho "summary: exit code $?"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert main(["replay", str(folder), "--no-faults", "--sanitizer", "racecheck"]) == 0
    out, err = capfd.readouterr()
    assert "survived" in out
    assert err.endswith("summary: exit code 3\n")


def test_no_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path)]) == 2
    assert "cannot read" in capsys.readouterr().err

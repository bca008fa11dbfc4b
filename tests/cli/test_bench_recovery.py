"""`octavo bench recovery`: what it computes, what it refuses, and runs against a real server."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.test_serve_command import Served
from octavo.cli.bench.client import Outcome
from octavo.cli.bench.recovery import leaks
from octavo.cli.bench.recovery.kills import Kill
from octavo.cli.bench.recovery.load import Load, mixed_requests
from octavo.cli.bench.recovery.processes import Kind, busy_processes, check_worker, children, family
from octavo.cli.bench.recovery.report import Report
from octavo.cli.main import main
from octavo.errors import OctavoError
from octavo.server.completion_request import CompletionRequest
from waits import wait_until


def outcome(arrivals: list[float], text: str = "abc", error: str = "") -> Outcome:
    made = Outcome(3, 0.0, not error, error, text, len(arrivals), arrivals, arrivals[-1])
    return dataclasses.replace(made, token_ids=[5, 7], logprobs=[(-0.5, {"a": -0.5}), (-0.25, None)])


PLAIN = Load([outcome([1.0, 2.0]), outcome([1.0, 3.0])])


def test_a_recovery_is_the_longest_silence_after_its_kill() -> None:
    load = Load([outcome([1.0, 2.1, 5.0, 5.5]), outcome([1.5, 2.0, 5.2, 9.5])], kills=[Kill(2.05), Kill(6.0)])
    assert load.recoveries_s() == pytest.approx([2.9, 3.5])


def test_kills_during_a_recovery_make_it_longer_and_those_of_standbys_are_none() -> None:
    kills = [Kill(2.0), Kill(2.5, recovering=True), Kill(3.0, Kind.KEEPER, recovering=True), Kill(6.5, Kind.STANDBY)]
    load = Load([outcome([1.0, 2.1, 6.0, 7.0]), outcome([2.2, 6.1, 6.4, 7.1])], kills)
    assert load.recoveries_s() == pytest.approx([3.8])


def test_failures_and_other_answers_are_told() -> None:
    same = Report(PLAIN, Load([outcome([1.0, 6.0]), outcome([1.0, 3.5])], [Kill(2.0)]), 1, {"memfds": 0})
    numbers = same.numbers()
    assert (numbers["failed"], numbers["differing"], numbers["kills"], same.passed) == (0, 0, 1, True)
    assert numbers["recovery_worst_s"] == pytest.approx(2.5)
    assert numbers["killed"]["e2el_p100_s"] - numbers["undisturbed"]["e2el_p100_s"] == pytest.approx(3.0)
    bad = [outcome([1.0, 2.0], text="abd"), outcome([1.0, 3.0], error="gone")]
    other = Report(PLAIN, Load(bad), 1, {})
    numbers = other.numbers()
    assert (numbers["failed"], numbers["differing"], numbers["recovery_median_s"], other.passed) == (1, 1, None, False)


@pytest.mark.parametrize(
    "change",
    [
        {"text": "abd"},
        {"token_ids": [5, 6]},
        {"logprobs": [(-0.5, {"a": -0.5}), (-0.25000000000000006, None)]},
        {"logprobs": [(-0.5, {"a": -0.5000000000000001}), (-0.25, None)]},
        {"finish_reason": "stop"},
    ],
    ids=["text", "token", "logprob", "likeliest", "reason"],
)
def test_each_answer_is_compared_with_that_of_its_request(change: dict[str, Any]) -> None:
    plain = Load([outcome([1.0]), outcome([1.0], text="xyz")])
    killed = [*plain.outcomes, *plain.outcomes]
    assert Load(killed).differing(plain) == 0
    killed[2] = dataclasses.replace(killed[2], **change)
    assert Load(killed).differing(plain) == 1
    assert Load(killed[::-1]).differing(plain) == 4


@pytest.mark.parametrize(
    "fault", [{"asked_kills": 2}, {"left": {"descriptors": 1}}, {"gave_up": True}], ids=["kills", "left", "gave-up"]
)
def test_a_run_passes_only_if_all_is_well(fault: dict[str, Any]) -> None:
    well = Report(PLAIN, Load(PLAIN.outcomes, [Kill(1.5)]), 1, {"descriptors": 0})
    assert well.passed
    assert not dataclasses.replace(well, **fault).passed


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--base-url", "http://example.org:8000"], "must be a server on this machine"),
        (["--kills", "0"], "--kills: must be above 0"),
        (["--random-kills", "0"], "--random-kills: must be above 0"),
        (["--concurrency", "0"], "--concurrency: must be above 0"),
        (["--load-processes", "-1"], "--load-processes: must be at least 0"),
    ],
    ids=["remote", "no-kills", "no-random-kills", "no-clients", "load"],
)
def test_what_cannot_work_is_refused(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "recovery", *flags]) == 2
    assert words in capsys.readouterr().err


def test_no_other_process_is_killed() -> None:
    with pytest.raises(OctavoError, match="worker"):
        check_worker(os.getpid())
    with pytest.raises(OctavoError, match="machine"):
        check_worker(2**22 + 1)


def test_mixed_requests_are_mixed_and_valid() -> None:
    requests = mixed_requests(count=70, input_len=9, output_len=20, vocab_size=256, seed=3)
    assert requests == mixed_requests(count=70, input_len=9, output_len=20, vocab_size=256, seed=3)
    for request in requests:
        CompletionRequest.model_validate({"model": "m", **request})
    for field in ("top_p", "top_k", "presence_penalty", "repetition_penalty", "stop", "logprobs", "ignore_eos"):
        assert 0 < sum(field in request for request in requests) < 70, field
    assert len({len(request["prompt"]) for request in requests}) == 9


@pytest.fixture
def stand_in() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose command line is a worker's."""
    command = [sys.executable, "-c", "input()", "octavo.worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_processes_are_told_by_what_they_run(stand_in: subprocess.Popen[bytes]) -> None:
    assert stand_in.pid in family(os.getpid(), stand_in.pid)[Kind.WORKER]
    assert stand_in.pid in family(os.getpid(), None)[Kind.STANDBY]
    stand_in.kill()
    wait_until(lambda: stand_in.pid not in children(os.getpid()))
    assert stand_in.returncode is None, "it was a zombie, which is no child that runs"


def test_busy_processes_end() -> None:
    before = set(children(os.getpid()))
    with busy_processes(2):
        assert len(set(children(os.getpid())) - before) == 2
    assert set(children(os.getpid())) - before == set()


def test_what_is_left_is_seen(
    stand_in: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(leaks, "SETTLE_S", 0.0)
    monkeypatch.setattr(leaks, "_temporary", lambda server: tmp_path)
    own = os.getpid()
    before = leaks.take(own)
    file = os.memfd_create("octavo-weights")
    (tmp_path / "octavo-left").mkdir()
    shared = Path("/dev/shm") / f"octavo-test-{own}"
    shared.touch()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = asyncio.run(leaks.left(own, before))
        child.kill()
    os.close(file)
    shared.unlink()
    assert all(found.values()), found
    assert found.keys() == before.keys()
    (tmp_path / "octavo-left").rmdir()
    assert leaks.more(before, leaks.take(own)) == dict.fromkeys(before, 0)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Served]:
    """A server with a folder for temporary files of its own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server = Served("--max-worker-restarts", "1000")
    yield server
    assert server.end() == 0


def test_against_a_server(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = tmp_path / "recovery.json"
    load = ["--num-prompts", "12", "--input-len", "10", "--output-len", "200", "--kills", "2", "--kill-interval", "0.1"]
    assert main(["bench", "recovery", "--base-url", served.url, *load, "--json", str(numbers)]) == 0
    printed = capsys.readouterr().out
    assert "failed 0 in both runs" in printed
    assert "the same as the undisturbed run's" in printed
    result = json.loads(numbers.read_text())
    assert (result["requests"], result["failed"], result["kills"], result["equal"]) == (12, 0, 2, True)
    assert result["kills_by_kind"] == {"worker": 2}
    assert 0 < result["recovery_median_s"] <= result["recovery_worst_s"]
    assert served.end() == 0
    assert served.log.count("recovered from signal") == 2


def test_random_kills_against_a_server(served: Served, tmp_path: Path) -> None:
    numbers = tmp_path / "recovery.json"
    load = [
        "--num-prompts",
        "30",
        "--concurrency",
        "20",
        "--input-len",
        "20",
        "--output-len",
        "60",
        "--kill-interval",
        "0.3",
        "--seed",
        "4",
    ]
    load += ["--random-kills", "14", "--load-processes", "1", "--json", str(numbers)]
    code = main(["bench", "recovery", "--base-url", served.url, *load])
    result = json.loads(numbers.read_text())
    assert (code, result["failed"], result["differing"]) == (0, 0, 0), result
    assert not any(result["left"].values())
    assert result["kills"] >= 14
    assert result["kills_by_kind"].keys() == {"worker", "standby", "keeper"}
    assert result["kills_while_recovering"] > 0
    assert result["requests"] % 30 == 0


@pytest.mark.parametrize(
    "kills",
    [["--random-kills", "1000", "--output-len", "30"], ["--kills", "5", "--output-len", "300"]],
    ids=["drawn", "in turn"],
)
def test_a_server_that_gives_up_is_told(kills: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    served = Served("--max-worker-restarts", "1")
    load = ["--num-prompts", "5", "--input-len", "5", "--kill-interval", "0.01", *kills]
    try:
        assert main(["bench", "recovery", "--base-url", served.url, *load]) == 1
        assert served.process.wait(60) == 1
    finally:
        served.process.send_signal(signal.SIGTERM)
        served.end()
    assert "--max-worker-restarts" in capsys.readouterr().out

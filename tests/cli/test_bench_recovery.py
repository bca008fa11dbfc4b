"""`octavo bench recovery`: what it computes, what it refuses, and a run against a real server."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cli.test_serve_command import Served
from octavo.cli.bench.client import Outcome
from octavo.cli.bench.recovery import Load, check_worker, report
from octavo.cli.main import main
from octavo.errors import OctavoError


def outcome(arrivals: list[float], text: str = "abc", error: str = "") -> Outcome:
    return Outcome(3, 0.0, not error, error, text, len(arrivals), arrivals, arrivals[-1])


def test_a_recovery_is_the_longest_silence_after_its_kill() -> None:
    load = Load([outcome([1.0, 2.1, 5.0, 5.5]), outcome([1.5, 2.0, 5.2, 9.5])], kills=[2.05, 6.0])
    assert load.recoveries_s() == pytest.approx([2.9, 3.5])


def test_failures_and_other_texts_are_told() -> None:
    plain = Load([outcome([1.0, 2.0]), outcome([1.0, 3.0])], [])
    same = report(plain, Load([outcome([1.0, 6.0]), outcome([1.0, 3.5])], [2.0]))
    assert (same["failed"], same["equal"], same["kills"]) == (0, True, 1)
    assert same["recovery_worst_s"] == pytest.approx(2.5)
    assert same["killed"]["e2el_p100_s"] - same["undisturbed"]["e2el_p100_s"] == pytest.approx(3.0)
    other = report(plain, Load([outcome([1.0, 2.0], text="abd"), outcome([1.0, 3.0], error="gone")], []))
    assert (other["failed"], other["equal"], other["recovery_median_s"]) == (1, False, None)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--base-url", "http://example.org:8000"], "must be a server on this machine"),
        (["--kills", "0"], "--kills: must be above 0"),
    ],
    ids=["remote", "no-kills"],
)
def test_what_cannot_work_is_refused(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "recovery", *flags]) == 2
    assert words in capsys.readouterr().err


def test_no_other_process_is_killed() -> None:
    with pytest.raises(OctavoError, match="is no worker of Octavo"):
        check_worker(os.getpid())
    with pytest.raises(OctavoError, match="is not on this machine"):
        check_worker(2**22 + 1)


def test_against_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = Served()
    numbers = tmp_path / "recovery.json"
    try:
        load = [
            "--num-prompts",
            "12",
            "--input-len",
            "10",
            "--output-len",
            "60",
            "--kills",
            "2",
            "--kill-interval",
            "0.1",
        ]
        assert main(["bench", "recovery", "--base-url", served.url, *load, "--json", str(numbers)]) == 0
    finally:
        assert served.end() == 0
    printed = capsys.readouterr().out
    assert "failed 0 in both runs" in printed
    assert "the same as undisturbed" in printed
    result = json.loads(numbers.read_text())
    assert (result["requests"], result["failed"], result["kills"], result["equal"]) == (12, 0, 2, True)
    assert 0 < result["recovery_median_s"] <= result["recovery_worst_s"]
    assert served.log.count("recovered from signal") == 2

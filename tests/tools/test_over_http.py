"""`benchmarks.peers.over_http` with Octavo's tiny model as the other engine, and the table that `benchmarks.http` makes of both."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import http, provenance, tables
from benchmarks.peers.server import words
from benchmarks.peers.sglang_http import make_tokenizer
from benchmarks.served import ServerEndedError, running, while_runs

from octavo.text.tokenizer import load_tokenizer

TESTS = Path(__file__).parents[1]
TINY = TESTS.parent / "src" / "octavo" / "assets" / "octavo-tiny"
MEASURED = ["--loads", "1x8x4", "3x8x4", "--repeats", "2", "--settle-s", "0"]
NAMES = [f"{count} of 8 and 4, {sampling}" for count in (1, 3) for sampling in ("greedy", "Qwen's")]


def measure(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the script on the played peer."""
    command = [sys.executable, "-m", "benchmarks.peers.over_http", "played_peer", str(TINY), str(out), *MEASURED]
    sites = ["--site", str(TESTS), str(TESTS.parent / "src")]
    return subprocess.run([*command, *sites, *more], cwd=TESTS.parent, capture_output=True, text=True, check=False)


def test_a_peer_is_measured_and_stands_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "peer.json"
    done = measure(out, "--extra", '{"max_num_seqs": 2}')
    assert done.returncode == 0, done.stderr
    told = json.loads(out.read_text())
    assert told["extra"] == {"max_num_seqs": 2}
    assert list(told["times"]) == NAMES
    for times in told["times"].values():
        assert list(times) == ["first_ms", "each_ms", "rate"]
        for middle, low, high in times.values():
            assert 0 < low <= middle <= high

    monkeypatch.setattr(provenance, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(tables, "PAGE", tmp_path / "page.md")
    command = ["http", "--model", "octavo-tiny", "--device", "cpu", "--peer", str(out), "--name", "both", *MEASURED]
    monkeypatch.setattr(sys, "argv", command)
    http.main()
    written = json.loads((tmp_path / "results" / "both.json").read_text())
    name = f"{told['engine']}, max_num_seqs 2"
    assert written["columns"][7:10] == [f"{name}: {what}" for what in ("first token, ms", "each token, ms", "tok/s")]
    ours, theirs = written["raw"]["times"], written["raw"]["peers"][name]
    assert list(ours) == NAMES
    assert theirs == told["times"]
    for row, key in zip(written["rows"], NAMES, strict=True):
        assert row[7].startswith(f"{theirs[key]['first_ms'][0]:.2f} (")
        first, each, rate = (ours[key][what][0] / theirs[key][what][0] for what in ("first_ms", "each_ms", "rate"))
        assert row[-3:] == [f"{1 / first:.2f}", f"{1 / each:.2f}", f"{rate:.2f}"]
    assert tables.section(written).count("\n| ") == 2 + len(NAMES)


def test_two_runs_of_ours_are_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(tables, "PAGE", tmp_path / "page.md")
    monkeypatch.setenv("BENCHMARK_COMMIT", "c0ffee")
    command = [
        "http",
        "--model",
        "octavo-tiny",
        "--device",
        "cpu",
        "--repeats",
        "1",
        "--samplings",
        "greedy",
        "--settle-s",
        "0",
        "--add",
    ]
    for load in ("2x9x4", "1x8x4"):
        monkeypatch.setattr(sys, "argv", [*command, "--loads", load])
        http.main()
    written = provenance.read_result("http")
    assert written is not None
    assert [cells[0] for cells in written["rows"]] == ["1 of 8 and 4", "2 of 9 and 4"]

    monkeypatch.setenv("BENCHMARK_COMMIT", "beef")
    with pytest.raises(SystemExit, match="c0ffee"):
        http.main()


def test_a_peer_that_ends_before_it_serves_ends_the_script_with_its_last_words(tmp_path: Path) -> None:
    done = measure(tmp_path / "peer.json", "--extra", '{"ends": true}')
    assert done.returncode == 1
    assert "no such card" in done.stderr
    assert "played_peer: the server ended with code 1" in done.stderr
    assert not (tmp_path / "peer.json").exists()


def test_a_peer_that_refuses_a_request_ends_the_script(tmp_path: Path) -> None:
    done = measure(tmp_path / "peer.json", "--extra", '{"max_model_len": 10}')
    assert done.returncode == 1
    assert "played_peer: 400: " in done.stderr
    assert not (tmp_path / "peer.json").exists()


def test_work_ends_when_its_server_does(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerEndedError, match="code 3"),
        running([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log") as server,
    ):
        asyncio.run(while_runs(server, asyncio.Event().wait()))


def test_no_child_of_a_server_outlives_it(tmp_path: Path) -> None:
    """The child ignores the signal that ends its parent; a pipe that it writes to ends with it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    child = f"""import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open({str(pipe)!r}, "w") as up:
    print("up", file=up, flush=True)
    signal.pause()"""
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with running([sys.executable, "-c", parent], tmp_path / "log"):
        up = pipe.open()
        assert up.readline() == "up\n"
    with up:
        assert up.read() == ""


def test_sigterm_ends_the_server_too(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(SystemExit),
        running([sys.executable, "-c", "import signal; signal.pause()"], tmp_path / "log") as server,
    ):
        signal.raise_signal(signal.SIGTERM)
    assert server.returncode == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_each_id_of_the_made_tokenizer_has_a_text(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    make_tokenizer(tmp_path / "made", TINY)
    tokenizer = load_tokenizer(tmp_path / "made")
    vocab_size = json.loads((TINY / "config.json").read_text())["vocab_size"]
    assert tokenizer.vocab_size == vocab_size
    assert tokenizer.decode([1, vocab_size - 1]) == f"t1 t{vocab_size - 1}"
    assert tokenizer.encode("t5 any") == [5, 0]


def test_settings_become_flags() -> None:
    settings = {"a_b": 1, "on": True, "off": False, "list": [1], "object": {"x": True}, "text": "y"}
    flags = ["--a-b", "1", "--on", "--no-off", "--list", "[1]", "--object", '{"x": true}', "--text", "y"]
    assert words(settings) == flags

"""What `benchmarks.http` makes of the times that its client notes."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import benchmarks.http
import pytest
from benchmarks import provenance, tables
from benchmarks.http import GREEDY, FailedRequestError, answer, main, planned
from benchmarks.http_times import (
    Load,
    OtherResultError,
    Result,
    Times,
    beside,
    columns,
    name_of,
    parse_name,
    read_peers,
    row,
)

from octavo.cli.bench.client import Outcome

ONE = Load(1, 512, 128)
OURS = Times((10.0, 9.0, 12.0), (2.0, 1.9, 2.1), (400.0, 390.0, 410.0))
SLOW = Times((40.0, 39.0, 41.0), (3.0, 2.9, 3.1), (250.0, 240.0, 260.0))
FAST = Times((20.0, 19.0, 21.0), (5.0, 4.9, 5.1), (200.0, 190.0, 210.0))


def outcome(started: float, *arrivals: float, tokens: int | None = None) -> Outcome:
    made = len(arrivals) if tokens is None else tokens
    return Outcome(5, started=started, success=True, arrivals=list(arrivals), output_tokens=made)


class Client:
    """Answers each request with the next of `outcomes`, and notes its body."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.bodies: list[dict[str, Any]] = []

    async def stream(self, path: str, body: dict[str, Any], prompt_tokens: int) -> Outcome:
        self.bodies.append(body)
        return self.outcomes.pop(0)


def test_long_loads_are_measured_greedily_alone() -> None:
    short, long = Load(1, 512, 128), Load(8, 32000, 128)
    assert planned([short], ["greedy", "Qwen's"], [long]) == [(short, "greedy"), (short, "Qwen's"), (long, "greedy")]
    assert planned([short], ["Qwen's"], None) == [(short, "Qwen's")]
    assert len(planned(None, ["greedy", "Qwen's"], [])) == 8
    every = planned(None, ["greedy", "Qwen's"], None)
    assert len(every) == 14
    assert {sampling for load, sampling in every if load.prompt > 1000} == {"greedy"}


def test_a_row_is_of_all_requests_and_of_the_median_run() -> None:
    runs = [[outcome(0.0, 0.1, 0.12, 0.14), outcome(0.0, 0.3, 0.33, 0.36)], [outcome(5.0, 5.2, 5.22, 5.24)] * 2]
    load = Load(2, 5, 3)
    cells = row(load, "greedy", Times.of(load, runs))
    assert cells == ["2 of 5 and 3", "greedy", "200.00", "100.00 to 300.00", "20.00", "20.00 to 30.00", "21"]


def test_the_rate_of_a_run_is_of_all_its_requests_from_the_first_to_the_last_token() -> None:
    runs = [[outcome(0.0, 1.0, 2.0), outcome(0.5, 1.0, 4.0)], [outcome(7.0, 8.0), outcome(7.0, 8.0, 9.0)]]
    assert Times.of(Load(2, 5, 2), runs).rate == (1.5, 1.0, 2.0)


def test_prompts_differ_and_no_request_has_a_seed() -> None:
    client: Any = Client(*(outcome(0.0, 1.0, 2.0) for _ in range(3)))
    asyncio.run(answer(client, "name", Load.parse("3x5x2"), GREEDY, vocab_size=1000, seed=1))
    assert len({tuple(body["prompt"]) for body in client.bodies}) == 3
    assert not any("seed" in body for body in client.bodies)
    assert all(body["ignore_eos"] and body["temperature"] == 0 and body["max_tokens"] == 2 for body in client.bodies)


@pytest.mark.parametrize("bad", [outcome(0.0, 1.0, tokens=1), Outcome(5, error="500: no")], ids=["short", "error"])
def test_a_request_that_fails_ends_it(bad: Outcome) -> None:
    client: Any = Client(outcome(0.0, 1.0, 2.0), bad)
    with pytest.raises(FailedRequestError, match=r"1 tokens in place of 2|500: no"):
        asyncio.run(answer(client, "name", Load(2, 5, 2), GREEDY, vocab_size=1000, seed=1))


def test_a_request_that_is_not_answered_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        async def stream(self, path: str, body: dict[str, Any], prompt_tokens: int) -> Outcome:
            await asyncio.Event().wait()
            raise AssertionError

    silent: Any = Silent()
    monkeypatch.setattr(benchmarks.http, "LOAD_S", 0.01)
    with pytest.raises(FailedRequestError, match="not answered"):
        asyncio.run(answer(silent, "name", Load(2, 5, 2), GREEDY, vocab_size=1000, seed=1))


@pytest.mark.parametrize("text", ["3x5", "axbxc", ""])
def test_a_load_is_three_numbers(text: str) -> None:
    with pytest.raises(ValueError, match=r"unpack|literal"):
        Load.parse(text)


def test_ratios_are_to_the_better_peer_of_each_column() -> None:
    """SLOW is the better by its times for each token and its rate, FAST by its time to the first."""
    name = name_of(ONE, "greedy")
    cells = beside(name, OURS, {"Slow 1": {name: SLOW}, "Fast 2": {name: FAST}})
    assert cells == [
        *("40.00 (39.00 to 41.00)", "3.00 (2.90 to 3.10)", "250 (240 to 260)"),
        *("20.00 (19.00 to 21.00)", "5.00 (4.90 to 5.10)", "200 (190 to 210)"),
        *("2.00", "1.50", "1.60"),
    ]


def test_cells_fill_the_columns_whichever_peer_ran() -> None:
    name = name_of(ONE, "greedy")
    one, none = {"Slow 1": {name: SLOW}}, {"None 0": dict[str, Times]()}
    for peers in (dict[str, dict[str, Times]](), one, none, one | none):
        cells = [*row(ONE, "greedy", OURS), *beside(name, OURS, peers)]
        assert len(cells) == len(columns(peers))
    assert beside(name, OURS, {"None 0": {}, "Slow 1": {name: SLOW}})[:3] == ["", "", ""]
    assert beside(name, OURS, {"None 0": {}, "Slow 1": {name: SLOW}})[-3:] == ["4.00", "1.50", "1.60"]
    assert beside(name, OURS, {"None 0": {}})[-3:] == ["", "", ""]


def test_files_of_one_engine_are_one_peer(tmp_path: Path) -> None:
    def write(file: str, engine: str, extra: dict[str, object], **times: Times) -> Path:
        told = {name: dataclasses.asdict(each) for name, each in times.items()}
        (tmp_path / file).write_text(json.dumps({"engine": engine, "extra": extra, "times": told}))
        return tmp_path / file

    files = [
        write("a.json", "Engine 1", {}, short=SLOW),
        write("b.json", "Engine 1", {}, long=FAST),
        write("c.json", "Engine 1", {"page_size": 1}, short=OURS),
    ]
    assert read_peers(files) == {"Engine 1": {"short": SLOW, "long": FAST}, "Engine 1, page_size 1": {"short": OURS}}


SOURCE = {
    "commit": "c0ffee",
    "gpu": "none",
    "command": "first",
    "cpu": "one",
    "python": "3",
    "torch": "2",
    "triton": "3",
}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for results."""
    monkeypatch.setattr(provenance, "RESULTS", tmp_path)
    monkeypatch.setattr(tables, "PAGE", tmp_path / "page.md")
    return tmp_path


def result(
    times: dict[str, Times] | None = None,
    source: dict[str, str] | None = None,
    model: str = "m",
    device: str = "cuda",
    repeats: int = 3,
) -> Result:
    return Result("both", model, device, repeats, {}, times or {}, {**SOURCE, **(source or {}), "date": "2026-11-30"})


def load_name(count: int, prompt: int) -> str:
    return name_of(Load(count, prompt, 2), "greedy")


def test_a_name_says_the_load_and_the_sampling() -> None:
    assert parse_name(name_of(ONE, "Qwen's")) == (ONE, "Qwen's")


def test_a_result_keeps_what_is_not_measured_again(results: Path) -> None:
    first = result({load_name(1, 9): OURS, load_name(8, 5): SLOW})
    first.peers["Engine 1"] = {load_name(1, 9): FAST}
    first.write()
    earlier = provenance.read_result("both")
    assert earlier is not None

    second = result({load_name(1, 9): FAST, load_name(1, 5): OURS}, {"command": "second"})
    second.take_over(earlier)
    second.write()
    written = provenance.read_result("both")
    assert written is not None
    assert {name: each["rate"][0] for name, each in written["raw"]["times"].items()} == {
        load_name(1, 5): OURS.rate[0],
        load_name(8, 5): SLOW.rate[0],
        load_name(1, 9): FAST.rate[0],
    }
    assert [cells[0] for cells in written["rows"]] == ["1 of 5 and 2", "8 of 5 and 2", "1 of 9 and 2"]
    assert list(written["raw"]["peers"]) == ["Engine 1"]
    assert written["provenance"]["command"] == "first && second"


@pytest.mark.parametrize(
    "other",
    [
        result(source={"commit": "beef"}),
        result(source={"gpu": "H200"}),
        result(model="other"),
        result(device="cpu"),
        result(repeats=1),
    ],
    ids=["commit", "gpu", "model", "device", "repeats"],
)
def test_a_result_of_something_else_is_not_added_to(results: Path, other: Result) -> None:
    other.write()
    earlier = provenance.read_result("both")
    assert earlier is not None
    with pytest.raises(OtherResultError):
        result().take_over(earlier)


def test_a_server_that_runs_already_is_not_added(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["http", "--add", "--base-url", "http://127.0.0.1:1"])
    with pytest.raises(SystemExit):
        main()
    assert "leave --base-url out" in capsys.readouterr().err


@pytest.mark.parametrize("commit", ["unknown", "c0ffee+changes"])
def test_a_tree_that_nobody_can_name_is_not_added_to(results: Path, commit: str) -> None:
    result(source={"commit": commit}).write()
    earlier = provenance.read_result("both")
    assert earlier is not None
    with pytest.raises(OtherResultError, match="nobody knows"):
        result(source={"commit": commit}).take_over(earlier)


def test_what_was_measured_stays_when_a_later_load_fails(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def measure(args: object, base_url: str) -> AsyncIterator[tuple[Load, str, Times]]:
        yield ONE, "greedy", OURS
        raise FailedRequestError

    monkeypatch.setattr(benchmarks.http, "measure", measure)
    with pytest.raises(FailedRequestError):
        asyncio.run(benchmarks.http.run(argparse.Namespace(), "", result()))
    written = provenance.read_result("both")
    assert written is not None
    assert list(written["raw"]["times"]) == [name_of(ONE, "greedy")]
    assert capsys.readouterr().out.startswith("1 of 512 and 128 | greedy | ")

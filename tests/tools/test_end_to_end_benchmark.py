"""The workloads that other engines run beside `benchmarks.end_to_end`, and the cells that come of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from benchmarks.end_to_end import Measured, beside, row_of
from benchmarks.peers.about import given, name_of
from benchmarks.peers.workloads import WORKLOADS, measure

BURST, ONE = WORKLOADS[0], next(each for each in WORKLOADS if each.name == "decode b=1")


def test_a_peer_runs_the_workloads_it_is_told(tmp_path: Path) -> None:
    asked: list[tuple[int, int, int]] = []

    def generate(prompts: list[list[int]], made: int) -> list[list[int]]:
        assert all(0 <= token_id < 50 for prompt in prompts for token_id in prompt)
        asked.append((len(prompts), len(prompts[0]), made))
        return [[7] * made for _ in prompts]

    args = argparse.Namespace(out=tmp_path / "peer.json", only=["seed burst", "decode b=1"], repeats=2)
    measure(generate, 50, args, {"engine": "Other 1.0", "extra": {}})
    told = json.loads(args.out.read_text())
    assert asked == [(16, 1000, 4), *[(100, 1000, 1)] * 3, *[(1, 128, 256)] * 3]
    assert {name: len(rates) for name, rates in told["rates"].items()} == {"seed burst": 2, "decode b=1": 2}
    assert all(rate > 0 for rates in told["rates"].values() for rate in rates)


def test_a_peer_that_makes_too_few_tokens_is_no_peer(tmp_path: Path) -> None:
    args = argparse.Namespace(out=tmp_path / "peer.json", only=[], repeats=1)
    with pytest.raises(AssertionError):
        measure(lambda prompts, made: [[7] * (made - 1) for _ in prompts], 50, args, {})


def test_medians_are_held_against_the_best_peer() -> None:
    measured = Measured([2.0, 1.0, 4.0], [])
    measured.steps = [None] * 256  # type: ignore[list-item]
    slow = {"engine": "Slow 1", "extra": {}, "rates": {"decode b=1": [10.0, 30.0, 20.0]}}
    fast = {"engine": "Fast 2", "extra": {"page_size": 64}, "rates": {"decode b=1": [64.0]}}
    assert row_of(ONE, measured) == ["decode b=1", 128, "64 to 256", "7.81"]
    assert beside(ONE, measured, [slow, fast]) == ["20 (10 to 30)", "64 (64 to 64)", "2.00"]
    assert beside(ONE, measured, []) == []
    assert beside(BURST, measured, [slow, fast]) == ["", "", ""]
    assert [name_of(slow), name_of(fast)] == ["Slow 1", "Fast 2, page_size 64"]


def test_what_the_environment_gives_an_engine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for folders, and what other programs read."""
    for name, value in (("VLLM_USE_X", "0"), ("VLLM_SITE", "/a/b"), ("SGLANG_Y", "1"), ("OTHER_VLLM_Z", "2")):
        monkeypatch.setenv(name, value)
    told = given({"page_size": 64})
    assert told == {"page_size": 64, "SGLANG_Y": "1", "VLLM_USE_X": "0"}
    assert name_of({"engine": "vLLM 1", "extra": told}) == "vLLM 1, page_size 64, SGLANG_Y 1, VLLM_USE_X 0"

"""The table of the expert layer's benchmark says what failed, and why."""

from __future__ import annotations

import dataclasses

from benchmarks.measurement import Timing
from benchmarks.moe_layer import Measurement, failures, reason

TIME = Timing(20.0, 19.0, 21.0)
WHY = "RuntimeError: nvcc not found"
BOTH = Measurement(1, Timing(10.0, 9.0, 11.0), 5.0, {"B": TIME, "A": TIME}, {"A": 0.01, "B": 0.02}, {})
ONE = dataclasses.replace(BOTH, tokens=2, peers={"A": TIME}, differences={"A": 0.01}, refused={"B": WHY})


def test_a_peer_that_failed_keeps_its_columns() -> None:
    assert BOTH.columns() == ONE.columns()
    assert ONE.columns()[-4:] == ["A", "ours / A", "B", "ours / B"]
    assert BOTH.row()[-4:] == ["20.0", "0.50", "20.0", "0.50"]
    assert ONE.row()[-4:] == ["20.0", "0.50", "failed", "failed"]


def test_the_conditions_name_the_first_failure() -> None:
    assert failures([BOTH]) == ""
    later = dataclasses.replace(ONE, tokens=4, refused={"B": "another"})
    assert failures([BOTH, ONE, later]) == f" B failed, first at T=2: {WHY}."


def test_a_reason_is_one_line_without_folders() -> None:
    assert reason(RuntimeError("/a/b.c/kernel.cu:12: no such file\nmore")) == "RuntimeError: kernel.cu:12: no such file"
    assert reason(AssertionError()) == "AssertionError: no message"

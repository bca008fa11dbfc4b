"""Idle work: what a worker does while no plan comes."""

from __future__ import annotations

from typing import cast

import msgspec
import pytest

from octavo.messages import StepPlan, StepResult
from octavo.wire import Wire
from octavo.worker.process import IDLE_S, answer_plans
from octavo.worker.runner import Runner

SILENCE = 0
"""In the place of a step's number: no message comes while the worker waits."""


class Play:
    """A wire and a runner, which write down what is asked of them.

    Args:
        messages: numbers of the steps whose plans come, in turn with silence; then the other end closes.
        parts: of idle work.
        looks: for how many a step runs.
    """

    def __init__(self, messages: list[int], parts: int, looks: int = 0) -> None:
        self.happened: list[str] = []
        self._messages = messages
        self._parts = parts
        self._looks = looks

    def wait(self, timeout_s: float | None) -> bool:
        self.happened.append(f"wait {timeout_s}")
        if self._messages and self._messages[0] == SILENCE:
            assert timeout_s is not None, "it would wait for ever"
            del self._messages[0]
            return False
        return True

    def read(self) -> bytes:
        if not self._messages:
            raise EOFError
        return msgspec.msgpack.encode(StepPlan(self._messages.pop(0), [], [], []))

    def send(self, message: bytes) -> None:
        self.happened.append(f"answer {msgspec.msgpack.decode(message)['step']}")

    def flush(self) -> None:
        pass

    def idle_work(self) -> bool:
        self.happened.append("work" if self._parts else "nothing left")
        self._parts -= 1
        return self._parts >= 0

    def launch(self, plan: StepPlan) -> RunningStep:
        self.happened.append(f"launch {plan.step}")
        return RunningStep(plan.step, self._looks)

    def draft(self) -> None:
        pass


class RunningStep:
    """A step that is done after `looks` looks."""

    is_sampled = True

    def __init__(self, step: int, looks: int) -> None:
        self._step = step
        self._looks = looks

    @property
    def done(self) -> bool:
        self._looks -= 1
        return self._looks < 0

    def result(self) -> StepResult:
        return StepResult(step=self._step, sampled=[])


def happened(play: Play) -> list[str]:
    with pytest.raises(EOFError):
        answer_plans(cast("Wire", play), cast("Runner", play))
    return play.happened


def test_idle_work_is_done_part_by_part_until_none_is_left() -> None:
    """From then on the worker waits for plans alone, however long."""
    assert happened(Play([SILENCE, SILENCE, SILENCE], parts=2)) == [
        *(f"wait {IDLE_S}", "work"),
        *("wait 0.0", "work"),
        *("wait 0.0", "nothing left"),
        "wait None",
    ]


def test_a_plan_that_comes_in_between_is_answered_first() -> None:
    """And idle work goes on only once no plan has come for a while."""
    assert happened(Play([SILENCE, 1, SILENCE, SILENCE], parts=2)) == [
        *(f"wait {IDLE_S}", "work"),
        *("wait 0.0", "launch 1", "answer 1"),
        *(f"wait {IDLE_S}", "work"),
        *("wait 0.0", "nothing left"),
        "wait None",
    ]


def test_a_plan_does_not_bring_back_what_is_done() -> None:
    assert happened(Play([SILENCE, 1], parts=0)) == [
        *(f"wait {IDLE_S}", "nothing left"),
        *("wait None", "launch 1", "answer 1"),
        "wait None",
    ]


def test_nothing_idle_is_done_beside_a_step() -> None:
    """Though no message comes while it runs."""
    assert happened(Play([1, SILENCE, SILENCE, SILENCE, 2], parts=9, looks=3)) == [
        *(f"wait {IDLE_S}", "launch 1"),
        *("wait 0", "wait 0", "wait 0", "answer 1"),
        *(f"wait {IDLE_S}", "launch 2"),
        "wait 0",
    ]

"""Who dies over a grammar: killed once, each time, or at the bound of its time."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from octavo.errors import OverloadedError, RequestError
from octavo.grammar import Compiler, ForkServer
from octavo.grammar.messages import COMPILE_S, Compiled, Ready, Refused
from octavo.structured_outputs import StructuredOutputsParams

ASKED = StructuredOutputsParams(regex="a+")
MADE = Compiled(None, b"\x02")


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Script:
    """A fork server whose children say what is written and then end, each after some seconds."""

    def __init__(self, clock: Clock, *children: tuple[float, list[Any]]) -> None:
        self._clock, self._children = clock, list(children)
        self.forked = 0

    def fork(self) -> Child:
        self.forked += 1
        return Child(self._clock, *self._children.pop(0))


class Child:
    """The wire to such a child."""

    def __init__(self, clock: Clock, seconds: float, words: list[Any]) -> None:
        self._clock, self._seconds = clock, seconds
        self._words = [msgspec.msgpack.encode(word) for word in words]
        self.closed = self.ended = False

    def send(self, data: bytes) -> None:
        assert data

    def wait(self, timeout_s: float) -> None:
        assert timeout_s > 0

    def receive(self) -> bytes | None:
        if self._words:
            return self._words.pop(0)
        self._clock.now += self._seconds
        self.ended = True
        return None

    def close(self) -> None:
        self.closed = True


def compiler(monkeypatch: pytest.MonkeyPatch, *children: tuple[float, list[Any]]) -> tuple[Compiler, Script]:
    clock = Clock()
    monkeypatch.setattr("octavo.grammar.compiler.time", clock)
    script = Script(clock, *children)
    return Compiler(cast("ForkServer", script)), script


def test_one_that_was_killed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, script = compiler(monkeypatch, (0.2, [Ready()]), (0.2, [Ready(), MADE]))
    assert made.compile(ASKED).first == MADE.first
    assert script.forked == 2


@pytest.mark.parametrize(
    "children",
    [
        [(0.2, [Ready()]), (0.2, [Ready()])],
        [(0.2, []), (0.2, [Ready()]), (0.2, [Ready()])],
        [(COMPILE_S, [Ready()])],
        [(0.2, [Ready()]), (COMPILE_S, [Ready()])],
    ],
    ids=["twice", "twice-behind-a-late-start", "at-its-bound", "killed-then-at-its-bound"],
)
def test_one_over_which_each_dies_is_refused_by_its_field(
    monkeypatch: pytest.MonkeyPatch, children: list[tuple[float, list[Any]]]
) -> None:
    made, script = compiler(monkeypatch, *children)
    with pytest.raises(RequestError, match="too much time or memory") as error:
        made.compile(ASKED)
    assert error.value.param == ASKED.asked_as
    assert script.forked == len(children)


def test_processes_that_never_begin_are_no_fault_of_the_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = compiler(monkeypatch, *[(0.1, [])] * 3)
    with pytest.raises(OverloadedError, match="could not start"):
        made.compile(ASKED)
    again, _ = compiler(monkeypatch, (0.1, [Ready(), Refused("no")]))
    with pytest.raises(RequestError, match="no"):
        again.compile(ASKED)

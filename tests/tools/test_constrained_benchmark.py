"""What `benchmarks.constrained` says of where the time of a step goes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from benchmarks.constrained import Parts, Watch

from octavo.messages import StepMasks, StepPlan, StepResult


class Link:
    """Answers the n-th question for a result with the n-th of `results`."""

    def __init__(self, results: list[StepResult | None]) -> None:
        self.results = results

    def send(self, plan: StepPlan) -> None: ...

    def tell(self, masks: StepMasks) -> None: ...

    def receive(self, timeout_s: float | None) -> StepResult | None:
        return self.results.pop(0)


def test_each_second_belongs_to_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([10.0, 11.0, 13.0, 16.0, 20.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(moments))
    link: Any = Link([StepResult(step=1, sampled=[]), None])
    watch = Watch(link, fork_server=Any)  # type: ignore[arg-type]
    watch.send(StepPlan(1, [], [], [], constrained=[3, 4, 5]))
    watch.tell(StepMasks(1, [4], [0], [b"x"]))
    assert watch.receive(None) is not None
    assert watch.receive(0) is None
    expected = Parts(steps=1, planned_s=1.0, told_s=2.0, computed_s=7.0, constrained=3, late=2)
    assert dataclasses.asdict(watch.parts) == dataclasses.asdict(expected)
    assert "planned 1000.00, computed 7000.00" in watch.parts.text()
    assert watch.parts.text().endswith("late 66.67 %")

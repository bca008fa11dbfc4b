"""Promise 2 with keys and values in FP8, and a scale that looks at the batch, which breaks it."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from bits.schedules import AHEAD, House, Job, Solo, houses, jobs, make_engine, run_schedule
from bits.test_twins import differences
from bits.tiny import tiny_machine
from octavo.config import KvFormat
from octavo.config.facts import PagedKv
from octavo.ops.quantize.rule import static_codes
from octavo.sampling import SamplingParams

SCHEDULES = 4
"""For each size of blocks with each number of steps ahead."""


@pytest.mark.timeout(1800)
def test_drawn_schedules_give_what_requests_give_alone() -> None:
    machine = tiny_machine(kv_cache_dtype="fp8")
    assert {layer.format for layer in machine.cache if isinstance(layer, PagedKv)} == {KvFormat.FP8}
    solo, seen = Solo(machine), Counter[str]()

    def sweep(block_size: int, ahead: int) -> None:
        @settings(deadline=None, max_examples=SCHEDULES, suppress_health_check=[HealthCheck.too_slow])
        @given(houses([block_size], [ahead]), jobs())
        def each(house: House, drawn: list[Job]) -> None:
            answers = run_schedule(make_engine(machine, house, seen), drawn, seen)
            assert solo.differences(drawn, answers) == []

        each()

    for block_size, ahead in itertools.product((1, 4, 16), AHEAD):
        sweep(block_size, ahead)


def test_preempted_cached_and_mixed_with_others() -> None:
    seen = Counter[str]()
    assert differences(tiny_machine(kv_cache_dtype="fp8"), seen) == []
    assert min(seen["preemptions"], seen["cached"], seen["mixed steps"]) > 0, seen


def test_the_cache_is_not_one_in_bf16() -> None:
    """Else the tests above would show nothing: the same requests have other bits."""
    job = Job("one", tuple(range(20)), SamplingParams(seed=1, logprobs=1, max_tokens=12, ignore_eos=True))
    answers = [Solo(tiny_machine(kv_cache_dtype=kept)).answer(job).tokens for kept in ("bfloat16", "fp8")]
    assert answers[0] != answers[1]


def test_scales_of_the_batch_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: codes at a scale that fits the keys or values of the step."""

    def of_the_step(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return static_codes(x, x.float().abs().amax() / 448)

    monkeypatch.setattr("octavo.ops.attention.cache.static_codes", of_the_step)
    assert differences(tiny_machine(kv_cache_dtype="fp8")) != []

"""Workers that are killed one after the other: whoever lives long enough for one request's tokens brings one on."""

from __future__ import annotations

import itertools
import signal
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.harness import Outcome, alone, collect, config, request
from octavo.config import EngineConfig
from octavo.engine import Engine, Request, scheduler
from octavo.engine.recovery.supervisor import RestartBudget, Supervisor
from octavo.messages import StepPlan, StepResult
from octavo.testing.mock_worker import MockSource, MockWorker

FIRST_TOKENS = 8


class ShortLived(MockWorker):
    """Killed in the step in which it would have computed more than `life` tokens."""

    def __init__(self, config: EngineConfig, life: int) -> None:
        super().__init__(config)
        self._left = life
        self._costs: deque[int] = deque()

    def send(self, plan: StepPlan) -> None:
        super().send(plan)
        self._costs.append(sum(chunk.count for chunk in plan.chunks))

    def receive(self, timeout_s: float | None) -> StepResult | None:
        if self._costs and self._costs[0] > self._left:
            self.die("killed from outside")
        result = super().receive(timeout_s)
        if result is not None:
            self._left -= self._costs.popleft()
        return result


Make = Callable[[int, EngineConfig], MockWorker]


def tokens_by_life(
    limits: EngineConfig, asked: list[Request], make: Make, more: Callable[[int], list[Request]] = lambda _: []
) -> list[int]:
    """Tokens that each worker made until all had answered, each as if alone.

    `more` come while the worker of a number starts; from `make` as a `MockSource` has it.
    """
    source = MockSource(limits, make)
    engine = Engine(limits, source.start(None), supervisor=Supervisor(source, RestartBudget(300, 1e9)))
    for each in asked:
        engine.add(each)
    outcomes: dict[str, Outcome] = {}
    made = [0]
    while engine.has_work:
        updates = engine.step(0)
        collect(outcomes, updates)
        engine.check_invariants()
        if len(source.workers) > len(made):
            made.append(0)
            for each in more(len(source.workers)):
                asked = [*asked, each]
                engine.add(each)
        made[-1] += sum(len(update.tokens) for update in updates)
    assert outcomes == {each.request_id: alone(each, limits) for each in asked}
    return made


def living(life: int) -> Make:
    return lambda _, config: ShortLived(config, life)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_each_life_that_is_long_enough_for_one_request_makes_a_token(data: st.DataObject) -> None:
    """But for the first, which begins with a step of any size under the threshold."""
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 12)), min_size=1, max_size=12))
    asked = [
        Request(
            f"r{i}",
            [i] * prompt,
            request("", [1], max_tokens=made, ignore_eos=True).sampling,
            priority=data.draw(st.integers(0, 2)),
        )
        for i, (prompt, made) in enumerate(sizes)
    ]
    longest = max(prompt + made for prompt, made in sizes)
    limits = config(
        block_size=4,
        num_blocks=-(-longest // 4) + data.draw(st.integers(1, 40)),
        max_model_len=longest,
        max_num_seqs=data.draw(st.integers(1, 12)),
        max_num_batched_tokens=data.draw(st.sampled_from([12, 100, 10_000])),
        long_prefill_token_threshold=data.draw(st.sampled_from([0, 1, 5])),
        prefix_caching=data.draw(st.booleans()),
        priorities=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "FIRST_TOKENS", FIRST_TOKENS)
        assert 0 not in tokens_by_life(limits, asked, living(2 * longest + FIRST_TOKENS))[1:]


@pytest.mark.parametrize("threshold", [0, 5])
def test_a_hundred_long_prompts_get_on_though_no_worker_lives_for_a_largest_step(threshold: int) -> None:
    limits = config(max_num_batched_tokens=8192, num_blocks=10_000, long_prefill_token_threshold=threshold)
    asked = [request(f"r{i}", [i % 90] * 200, max_tokens=3, ignore_eos=True) for i in range(100)]
    assert len(tokens_by_life(limits, asked, living(2000))) < 100


def test_new_requests_that_go_first_in_each_life_do_not_hold_up_all() -> None:
    """The threshold would give each of two half a life."""
    limits = config(num_blocks=10_000, long_prefill_token_threshold=600, priorities=True)
    sampling = request("", [1], max_tokens=3, ignore_eos=True).sampling
    asked = [Request(f"r{i}", [i] * 2000, sampling) for i in range(6)]

    def more(life: int) -> list[Request]:
        return [Request(f"p{life}", [life] * 2000, sampling, priority=-life)] if life < 20 else []

    assert 0 not in tokens_by_life(limits, asked, living(2 * 2003 + 512), more)[1:]


@pytest.mark.parametrize(("count", "size", "life"), [(100, 200, 918), (8, 1000, 2518)])
def test_a_search_for_killers_gets_on_too(count: int, size: int, life: int) -> None:
    """Two workers die from inside in a large step, so that requests run apart; all after them are killed from outside."""
    limits = config(max_num_batched_tokens=8192, num_blocks=10_000)

    class DiesOfLargeSteps(MockWorker):
        def send(self, plan: StepPlan) -> None:
            if sum(chunk.count for chunk in plan.chunks) >= 4096:
                self.die("the kernel wrote out of bounds", exit_code=-signal.SIGSEGV)
            super().send(plan)

    asked = [request(f"r{i}", [i % 90] * size, max_tokens=3, ignore_eos=True) for i in range(count)]
    made = tokens_by_life(
        limits, asked, lambda number, config: DiesOfLargeSteps(config) if number < 2 else ShortLived(config, life)
    )
    assert max(len(list(wasted)) for made_any, wasted in itertools.groupby(made, bool) if not made_any) < 4

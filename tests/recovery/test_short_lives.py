"""Workers that are killed one after the other: whoever lives long enough for one request's tokens brings one on."""

from __future__ import annotations

from collections import deque

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


def lives(limits: EngineConfig, asked: list[Request], life: int) -> int:
    """Workers that it takes until all have answered, each as if alone."""
    source = MockSource(limits, lambda _, config: ShortLived(config, life))
    most = sum(each.sampling.max_tokens or 0 for each in asked) + len(asked) + 1
    engine = Engine(limits, source.start(None), supervisor=Supervisor(source, RestartBudget(most, 1e9)))
    for each in asked:
        engine.add(each)
    outcomes: dict[str, Outcome] = {}
    while engine.has_work:
        collect(outcomes, engine.step(0))
        engine.check_invariants()
    assert outcomes == {each.request_id: alone(each, limits) for each in asked}
    return len(source.workers)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_each_life_that_is_long_enough_for_one_request_makes_a_token(data: st.DataObject) -> None:
    """No life is wasted but the first, and one for each request that had not run before, which the threshold holds back."""
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
        lives(limits, asked, 2 * longest + FIRST_TOKENS)


@pytest.mark.parametrize("threshold", [0, 5])
def test_a_hundred_long_prompts_get_on_though_no_worker_lives_for_a_largest_step(threshold: int) -> None:
    limits = config(max_num_batched_tokens=8192, num_blocks=10_000, long_prefill_token_threshold=threshold)
    asked = [request(f"r{i}", [i % 90] * 200, max_tokens=3, ignore_eos=True) for i in range(100)]
    assert lives(limits, asked, 2000) < 100

"""A step that kills whoever is in it costs nobody anything: steps get smaller until workers live, and nobody is blamed."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.harness import alone, config, finish, request
from octavo.config import EngineConfig
from octavo.engine import Engine, Request
from octavo.engine.recovery.fault_injection import FaultInjector, parse_fault
from octavo.engine.recovery.step_sizes import DEATHS, LEAST, StepSizes
from octavo.engine.recovery.supervisor import RestartBudget, Supervisor
from octavo.errors import OctavoError
from octavo.messages import StepPlan
from octavo.testing.mock_worker import MockSource, MockWorker

Kills = Callable[[StepPlan], bool]


class SizeKiller(MockWorker):
    """Dies of plans that `kills` says."""

    kills: Kills

    def send(self, plan: StepPlan) -> None:
        if self.kills(plan):
            self.die("the kernel wrote out of bounds", exit_code=-signal.SIGSEGV)
        super().send(plan)


@dataclasses.dataclass
class Served:
    """What became of requests on workers that plans kill."""

    engine: Engine
    source: MockSource
    failed: dict[str, OctavoError]

    @property
    def deaths(self) -> int:
        return len(self.source.workers) - 1


def serve(asked: list[Request], limits: EngineConfig, kills: Kills, *faults: str) -> Served:
    """Ask all at once; every answer that is none of `failed` is the one that each gets alone."""

    def made(_: object, config_: EngineConfig) -> MockWorker:
        worker = SizeKiller(config_)
        worker.kills = kills
        return worker

    source = MockSource(limits, made)
    injector = FaultInjector([parse_fault(fault) for fault in faults])
    supervisor = Supervisor(source, RestartBudget(10, 600.0))
    engine = Engine(limits, source.start(None), supervisor=supervisor, injector=injector)
    for each in asked:
        engine.add(each)
    outcomes = finish(engine, {})
    engine.check_invariants()
    failed = {name: outcome.error for name, outcome in outcomes.items() if outcome.error is not None}
    for each in asked:
        assert each.request_id in failed or outcomes[each.request_id] == alone(each, limits), each.request_id
    return Served(engine, source, failed)


def tokens_of(plan: StepPlan) -> int:
    return sum(chunk.count for chunk in plan.chunks)


def prompts(count: int, length: int, made: int = 3) -> list[Request]:
    return [
        request(f"r{i}", [(7 * i + j) % 95 for j in range(length)], temperature=1.0, seed=i, max_tokens=made)
        for i in range(count)
    ]


WIDE = config(max_num_batched_tokens=8192, num_blocks=20_000, max_num_seqs=256, max_model_len=13_000)


def test_one_step_of_exactly_8192_tokens_kills_and_everybody_is_answered() -> None:
    """The report that Octavo was begun for: about 100 requests of 1,001 tokens. Before, 39 of them failed, and the engine ended."""
    served = serve(prompts(100, 1001), WIDE, lambda plan: tokens_of(plan) == 8192)
    assert not served.failed
    assert served.deaths == DEATHS
    assert max(map(tokens_of, served.source.workers[-1].plans)) == 4096


@pytest.mark.parametrize(
    ("count", "length", "deadly"),
    [(100, 1001, 4000), (100, 1001, 1000), (40, 1001, 300), (3, 12_000, 8192), (1, 12_000, 3000), (30, 12, 100)],
    ids=str,
)
def test_steps_get_smaller_until_workers_live(count: int, length: int, deadly: int) -> None:
    served = serve(prompts(count, length), WIDE, lambda plan: tokens_of(plan) >= deadly)
    assert not served.failed
    assert max(map(tokens_of, served.source.workers[-1].plans)) < deadly


@pytest.mark.parametrize("deadly", [600, 400, 150])
def test_a_long_chunk_of_one_request_kills_and_everybody_is_answered(deadly: int) -> None:
    asked = [
        *prompts(20, 100),
        *(request("long", range(95), max_tokens=3), request("longer", [5] * 1000, max_tokens=3)),
    ]
    assert not serve(asked, WIDE, lambda plan: any(chunk.count >= deadly for chunk in plan.chunks)).failed


def test_steps_are_whole_again_once_a_killer_is_found() -> None:
    asked = [*prompts(40, 1001), request("killer", [9] * 1001, max_tokens=3)]
    served = serve(asked, WIDE, lambda _plan: False, "segfault@request:killer")
    assert list(served.failed) == ["killer"]
    assert max(map(tokens_of, served.source.workers[-1].plans)) == 8192


def test_a_killer_among_those_whose_steps_kill_fails_alone() -> None:
    asked = [*prompts(40, 1001), request("killer", [9] * 1001, max_tokens=3)]
    served = serve(asked, WIDE, lambda plan: tokens_of(plan) >= 5000, "segfault@request:killer")
    assert list(served.failed) == ["killer"]


def test_a_worker_that_dies_of_every_step_is_given_up() -> None:
    """The twin: no size helps."""
    served = serve(prompts(3, 20), WIDE, lambda _plan: True)
    assert len(served.failed) == 3
    assert served.deaths < 40


def test_one_death_and_deaths_in_small_steps_change_nothing() -> None:
    sizes = StepSizes(8192)
    assert sizes.on_death(8192, counts=True) == 0
    sizes.on_step(8192)
    assert not sizes.needs_steps
    assert sizes.on_death(8192, counts=True) == 0, "a step as large has lived in between"
    sizes.on_step(8191)
    assert sizes.on_death(4096, counts=True) == 0, "half a step is no large one"
    assert sizes.most == 8192
    assert sizes.on_death(8192, counts=False) == 1, "the death of a trial is held against nobody"
    assert sizes.most == 4096


@given(
    st.integers(1, 9000),
    st.lists(st.tuples(st.sampled_from(["step", "death", "life", "found", "none"]), st.integers(1, 9000))),
)
@settings(max_examples=300, deadline=None)
def test_steps_stay_within_bounds(most: int, events: list[tuple[str, int]]) -> None:
    sizes, spent = StepSizes(most), 0
    for event, number in events:
        before, tokens = sizes.most, min(number, sizes.most)
        if event == "step":
            sizes.on_step(tokens)
        elif event == "death":
            spent += 1
            explained = sizes.on_death(tokens, counts=True)
            assert (explained > 0) == (sizes.most < before)
            assert explained <= spent
            spent -= explained
        elif event == "life":
            sizes.on_life_in_small_steps()
        else:
            sizes.on_verdict(found=event == "found")
        assert event == "found" or sizes.most <= before
        assert min(LEAST, most) <= sizes.most <= most
        assert 1 <= sizes.small <= sizes.most


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_drawn_steps_that_kill_cost_nobody_anything(data: st.DataObject) -> None:
    most = data.draw(st.sampled_from([256, 512, 2048]))
    limits = config(
        max_num_batched_tokens=most,
        num_blocks=5000,
        max_num_seqs=data.draw(st.sampled_from([4, 16, 64])),
        prefix_caching=data.draw(st.booleans()),
    )
    deadly, exactly = data.draw(st.integers(LEAST + 1, most)), data.draw(st.booleans())
    lengths = data.draw(st.lists(st.integers(1, 800), min_size=1, max_size=12))
    asked = [request(f"r{i}", [(i + j) % 95 for j in range(n)], max_tokens=5) for i, n in enumerate(lengths)]
    served = serve(asked, limits, lambda plan: tokens_of(plan) == deadly if exactly else tokens_of(plan) >= deadly)
    assert not served.failed

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
from octavo.messages import StepPlan, StepResult
from octavo.testing.mock_worker import MockSource, MockWorker

Kills = Callable[[StepPlan], bool]


class SizeKiller(MockWorker):
    """Dies of plans that `kills` says; late as a process does, once the next plan lies behind the deadly one."""

    kills: Kills
    is_doomed = False

    def send(self, plan: StepPlan) -> None:
        self._check_alive()
        self.is_doomed = self.is_doomed or bool(plan.faults) or self.kills(plan)
        if not self.is_doomed:
            super().send(plan)

    def receive(self, timeout_s: float | None) -> StepResult | None:
        if self.is_doomed and not self._results:
            self.die("the kernel wrote out of bounds", exit_code=-signal.SIGSEGV)
        return super().receive(timeout_s)


@dataclasses.dataclass
class Served:
    """What became of requests on workers that plans kill."""

    engine: Engine
    source: MockSource
    failed: dict[str, OctavoError] = dataclasses.field(default_factory=dict)

    @property
    def deaths(self) -> int:
        return len(self.source.workers) - 1

    def ask(self, asked: list[Request]) -> Served:
        """Ask all at once; every answer that is none of `failed` is the one that each gets alone."""
        for each in asked:
            self.engine.add(each)
        outcomes = finish(self.engine, {})
        self.engine.check_invariants()
        for each in asked:
            outcome = outcomes[each.request_id]
            if outcome.error is not None:
                self.failed[each.request_id] = outcome.error
            else:
                assert outcome == alone(each, self.engine.config), each.request_id
        return self


def workers(limits: EngineConfig, kills: Kills, *faults: str) -> Served:
    """An engine on workers that die of what `kills` says, and of `faults`."""

    def made(_: object, config_: EngineConfig) -> MockWorker:
        worker = SizeKiller(config_)
        worker.kills = kills
        return worker

    source = MockSource(limits, made)
    injector = FaultInjector([parse_fault(fault) for fault in faults])
    supervisor = Supervisor(source, RestartBudget(10, 600.0))
    engine = Engine(limits, source.start(None), supervisor=supervisor, injector=injector)
    return Served(engine, source)


def serve(asked: list[Request], limits: EngineConfig, kills: Kills, *faults: str) -> Served:
    """Ask all at once on such workers."""
    return workers(limits, kills, *faults).ask(asked)


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
    assert served.engine.status().step_token_limit == 4096


@pytest.mark.parametrize(
    ("count", "length", "deadly"),
    [(100, 1001, 4000), (40, 1001, 300), (3, 12_000, 8192), (1, 12_000, 3000), (30, 12, 100), (2, 9000, 100)],
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
    served.ask([request(f"p{i}", [i] * 1001, max_tokens=3) for i in range(20)])
    assert max(map(tokens_of, served.source.workers[-1].plans)) == 8192
    assert served.engine.status().step_token_limit == 8192


def test_a_killer_among_those_whose_steps_kill_fails_alone() -> None:
    asked = [*prompts(40, 1001), request("killer", [9] * 1001, max_tokens=3)]
    served = serve(asked, WIDE, lambda plan: tokens_of(plan) >= 5000, "segfault@request:killer")
    assert list(served.failed) == ["killer"]


@pytest.mark.parametrize("deadly", [512, 1024, 2048])
def test_the_sizes_of_steps_behind_a_death_kill_beside_a_killer(deadly: int) -> None:
    """Each death is followed by steps of 512 tokens, 1,024 and so on."""
    asked = [*prompts(30, 1001), request("killer", [9] * 1001, max_tokens=3)]
    served = serve(asked, WIDE, lambda plan: tokens_of(plan) == deadly, "segfault@request:killer")
    assert list(served.failed) == ["killer"]


def test_one_after_the_other_dies_of_a_size_that_the_next_life_does_not_have() -> None:
    served = workers(WIDE, lambda plan: tokens_of(plan) >= 4000)
    for number in range(15):
        served.ask([request(f"r{number}", [number] * 4000, max_tokens=3)])
    assert not served.failed
    assert served.deaths == DEATHS


def test_a_killer_that_leaves_in_the_midst_of_the_search_leaves_no_small_steps() -> None:
    served = workers(WIDE, lambda _plan: False, "segfault@request:killer")
    engine = served.engine
    for each in [*prompts(20, 1001), request("killer", [9] * 1001, max_tokens=3)]:
        engine.add(each)
    while engine.has_work:
        if served.deaths >= 4:
            engine.abort("killer")
        engine.step()
    served.ask([request(f"p{i}", [i] * 1001, max_tokens=3) for i in range(20)])
    assert served.deaths >= 4
    assert served.engine.status().step_token_limit == 8192
    assert max(map(tokens_of, served.source.workers[-1].plans)) == 8192


def test_no_death_is_forgiven_twice() -> None:
    """Deaths from outside count on, whatever killers are found behind them."""
    served = workers(WIDE, lambda _plan: False, "segfault@request:killer")
    served.ask(prompts(3, 50))
    for _ in range(4):
        served.source.workers[-1].die("killed from outside", exit_code=-signal.SIGKILL)
        served.ask([request(f"o{served.deaths}", [1] * 50, max_tokens=3)])
    assert served.engine.status().restarts["signal"] == served.deaths == 4
    few = [request(f"p{i}", [i] * 1001, max_tokens=3) for i in range(7)]
    served.ask([*few, request("killer", [9] * 1001, max_tokens=3)])
    assert list(served.failed) == ["killer"]
    budget = vars(vars(served.engine)["_supervisor"])["_budget"]
    assert len(vars(budget)["_spent"]) == 4


def test_a_worker_that_dies_of_every_step_is_given_up() -> None:
    """The twin: no size helps."""
    served = serve(prompts(3, 20), WIDE, lambda _plan: True)
    assert len(served.failed) == 3
    assert served.deaths < 40


def test_two_deaths_in_steps_as_large_halve_them() -> None:
    sizes = StepSizes(8192)
    assert sizes.on_death([8192], counts=True) == 0
    sizes.on_step(8192)
    assert not sizes.needs_steps
    assert sizes.on_death([4096, 8192], counts=True) == 0, "a step as large has lived in between"
    sizes.on_step(8191)
    assert sizes.on_death([127], counts=True) == 0, "steps as small are not halved, while large ones come"
    assert sizes.most == 8192
    assert sizes.on_death([5000, 3000], counts=False) == 1, "the death of a trial is held against nobody"
    assert sizes.most == 2500
    assert sizes.small == LEAST
    assert sizes.on_verdict(found=True) == 1
    assert sizes.most == 8192


def test_a_verdict_ends_what_was_counted() -> None:
    sizes = StepSizes(8192)
    sizes.on_death([4096, 8192], counts=True)
    assert sizes.small == 512, "the smaller of two steps in flight may have been the deadly one"
    assert sizes.on_verdict(found=False) == 0
    assert sizes.on_death([8192], counts=True) == 0
    assert sizes.most == 8192


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
            explained = sizes.on_death([tokens], counts=True)
            assert (explained > 0) == (sizes.most < before)
            assert explained <= spent
            spent -= explained
        elif event == "life":
            sizes.on_life_in_small_steps()
        else:
            assert sizes.on_verdict(found=event == "found") >= 0
        assert event == "found" or sizes.most <= before
        assert min(LEAST, most) <= sizes.most <= most
        assert 1 <= sizes.small <= sizes.most


@pytest.mark.parametrize(
    ("most", "seats", "deadly", "lengths"),
    [
        (256, 4, 65, [65, 71]),
        (256, 1, 65, [200, 65]),
        (512, 16, 65, [64, 60, 127, 80]),
        (512, 4, 70, [66, 130]),
        (2048, 4, 70, [80, 128, 130]),
        (256, 1, 80, [100, 128, 80]),
        (512, 1, 66, [65, 100, 71, 100]),
    ],
)
def test_steps_that_kill_from_hardly_more_than_the_least_on(
    most: int, seats: int, deadly: int, lengths: list[int]
) -> None:
    """Halves of those that are deadly are fewer tokens than steps are left, and where they are left at more, they are deadly still."""
    limits = config(max_num_batched_tokens=most, num_blocks=5000, max_num_seqs=seats)
    asked = [request(f"r{i}", [(i + j) % 95 for j in range(n)], max_tokens=5) for i, n in enumerate(lengths)]
    assert not serve(asked, limits, lambda plan: tokens_of(plan) >= deadly).failed


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

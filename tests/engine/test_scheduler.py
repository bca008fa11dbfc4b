"""What a step is made of."""

from __future__ import annotations

import pytest

from engine.harness import Outcome, PacedWorker, alone, collect, config, finish, request, serve
from octavo.config import EngineConfig
from octavo.engine import Engine, Request, StepRecord
from octavo.engine.acceptance import accept
from octavo.engine.scheduler import Scheduler
from octavo.engine.sequence import Waiting
from octavo.engine.statistics import Counters
from octavo.testing.mock_worker import MockWorker

BURST_LIMITS = {"vocab_size": 5000, "eos_token_ids": (4999,), "max_num_seqs": 256, "num_blocks": 7000}


def burst(num_prompt_tokens: int = 1001) -> list[Request]:
    """The public failure's shape: 100 different prompts of 1001 tokens, all at once, one token wanted."""
    return [request(f"r{i}", [(7 * i + j) % 4999 for j in range(num_prompt_tokens)], max_tokens=1) for i in range(100)]


def run(limits: EngineConfig, requests: list[Request]) -> tuple[dict[str, Outcome], list[StepRecord]]:
    records: list[StepRecord] = []
    engine = Engine(limits, MockWorker(limits), records.append)
    return serve(engine, requests, check_every=1009), records


def test_the_step_of_the_public_failure() -> None:
    _outcomes, records = run(config(**BURST_LIMITS), burst())
    assert (records[0].step, records[0].tokens, records[0].chunks) == (1, 8192, [1001] * 8 + [184])
    assert (records[1].tokens, records[1].chunks) == (8192, [817] + [1001] * 7 + [368])
    assert [record.tokens for record in records] == [8192] * 12 + [100 * 1001 - 12 * 8192]


@pytest.fixture(scope="module")
def burst_alone() -> dict[str, Outcome]:
    """What each request of the burst answers alone, all of it in one step."""
    limits = config(**BURST_LIMITS)
    return {asked.request_id: alone(asked, limits) for asked in burst()}


@pytest.mark.parametrize("budget", [1, 7, 184, 1001, 8191, 8192, 8193, 16384], ids="budget{}".format)
def test_burst_answers_are_the_same_for_every_budget(budget: int, burst_alone: dict[str, Outcome]) -> None:
    limits = config(**BURST_LIMITS, max_num_batched_tokens=budget)
    outcomes, records = run(limits, burst())
    assert outcomes == burst_alone
    full, rest = divmod(100 * 1001, budget)
    assert [record.tokens for record in records] == [budget] * full + [rest] * (rest > 0)


def test_decode_comes_before_prefill_and_prefill_fills_the_rest_exactly() -> None:
    limits = config(max_num_batched_tokens=8)
    records: list[StepRecord] = []
    engine = Engine(limits, MockWorker(limits), records.append)
    for i in range(3):
        engine.add(request(f"d{i}", [i], max_tokens=30, ignore_eos=True))
    engine.step()
    engine.add(request("long", range(40), max_tokens=1))
    finish(engine)
    mixed = [record for record in records if record.chunks and record.decode_tokens]
    assert {(record.decode_tokens, tuple(record.chunks)) for record in mixed} == {(3, (5,))}
    assert len(mixed) == 8


def test_long_prefill_token_threshold_bounds_one_request_not_the_step() -> None:
    limits = config(max_num_batched_tokens=16, long_prefill_token_threshold=6)
    requests = [request(f"r{i}", range(i, i + 20), max_tokens=2) for i in range(4)]
    outcomes, records = run(limits, requests)
    assert records[0].chunks == [6, 6, 4]
    assert records[1].chunks == [6, 6, 4]
    assert max(count for record in records for count in record.chunks) == 6
    assert outcomes == {asked.request_id: alone(asked, limits) for asked in requests}


def test_no_more_sequences_than_slots() -> None:
    limits = config(max_num_seqs=3)
    requests = [request(f"r{i}", [i], max_tokens=5, ignore_eos=True) for i in range(10)]
    _outcomes, records = run(limits, requests)
    assert max(record.running for record in records) == 3


def test_first_come_first_served() -> None:
    limits = config(max_num_seqs=2, max_num_batched_tokens=5)
    engine = Engine(limits, MockWorker(limits))
    for i in range(9):
        engine.add(request(f"r{i}", range(12 - i), max_tokens=1))
    ended: list[str] = []
    while engine.has_work:
        ended += [update.request_id for update in engine.step() if update.finish_reason]
    assert ended == [f"r{i}" for i in range(9)]


def test_the_last_to_arrive_is_preempted_and_is_the_first_to_come_back() -> None:
    limits = config(block_size=4, num_blocks=8, max_model_len=32, prefix_caching=False)
    engine = Engine(limits, MockWorker(limits))
    requests = [request(f"r{i}", [i] * 7, max_tokens=20, ignore_eos=True) for i in range(4)]
    for asked in requests:
        engine.add(asked)
    outcomes: dict[str, Outcome] = {}
    while not engine.scheduler.counters.preemptions:
        collect(outcomes, engine.step())
    assert [sequence.request_id for sequence in engine.scheduler.waiting] == ["r2", "r3"]
    assert [running.sequence.request_id for running in engine.scheduler.running] == ["r0", "r1"]
    lost: dict[str, int] = {}
    while engine.has_work:
        updates = engine.step()
        collect(outcomes, updates)
        lost |= {update.request_id: update.num_preemptions for update in updates if update.finish_reason}
    assert outcomes == {asked.request_id: alone(asked, limits) for asked in requests}
    assert lost["r0"] == 0
    assert lost["r3"] >= 1
    assert sum(lost.values()) == engine.status().preemptions


def test_a_start_leaves_blocks_for_the_next_decodes() -> None:
    limits = config(block_size=4, num_blocks=12, prefix_caching=False, max_model_len=40)
    engine = Engine(limits, MockWorker(limits))
    for i in range(3):
        engine.add(request(f"r{i}", range(16), max_tokens=2, ignore_eos=True))
    engine.step()
    assert [running.sequence.request_id for running in engine.scheduler.running] == ["r0", "r1"]
    finish(engine)
    assert engine.status().preemptions == 0


def test_a_preempted_sequence_waits_for_the_token_in_flight() -> None:
    """Its history lacks the token that step 3 sampled until the result of step 3 is in."""
    limits = config()
    scheduler = Scheduler(limits, Counters())
    sequence = accept(request("a", [1, 2, 3]), limits)
    sequence.state = Waiting(3, after_step=3)
    scheduler.enqueue(sequence)
    scheduler.received = 2
    assert scheduler.plan(0.0) is None
    scheduler.received = 3
    assert scheduler.plan(0.0) is not None


def test_a_plan_is_made_while_a_step_runs_and_never_a_third() -> None:
    limits = config()
    worker = PacedWorker(limits)
    worker.let = 0
    engine = Engine(limits, worker)
    engine.add(request("a", [1], max_tokens=4, ignore_eos=True))
    engine.step(0)
    assert [plan.step for plan in worker.plans] == [1, 2]
    engine.step(0)
    assert [plan.step for plan in worker.plans] == [1, 2]
    assert worker.plans[1].chunks[0].start == 1
    worker.let = None
    finish(engine)


def test_length_is_foreseen_so_that_no_token_is_computed_for_nothing() -> None:
    limits = config()
    records: list[StepRecord] = []
    engine = Engine(limits, MockWorker(limits), records.append)
    engine.add(request("a", range(10), max_tokens=5, ignore_eos=True))
    finish(engine)
    assert [record.tokens for record in records] == [10, 1, 1, 1, 1]

"""Public faults of other engines that a scheduler can meet, one test each, named after their class.

G: KV cache and scheduling; H: races; I: admission and lifecycle. Each row's ids are in its test's docstring.
"""

from __future__ import annotations

import itertools
from array import array
from typing import Any

import pytest

from engine.harness import Outcome, alone, collect, config, finish, request, serve
from octavo.config import EngineConfig
from octavo.engine import Engine, FinishReason, Request
from octavo.errors import RequestError, RequestFailedError, WorkerDiedError
from octavo.testing.mock_worker import MockWorker


def engine(limits: EngineConfig, **worker: object) -> Engine:
    return Engine(limits, MockWorker(limits, **worker))  # type: ignore[arg-type]


def expect(outcomes: dict[str, Outcome], requests: list[Request], limits: EngineConfig) -> None:
    assert {asked.request_id: outcomes[asked.request_id] for asked in requests} == {
        asked.request_id: alone(asked, limits) for asked in requests
    }


@pytest.mark.parametrize("extra", [-1, 0, 1], ids=["before", "at", "past"])
def test_g_block_table_column_is_never_past_its_row(extra: int) -> None:
    """vllm#53982, vllm#54296, vllm#45462: a sequence that ends around the last position of a block table row."""
    limits = config(max_model_len=64, block_size=16, num_blocks=20)
    asked = request("a", range(40), max_tokens=24 + extra, ignore_eos=True)
    outcomes = serve(engine(limits), [asked])
    assert len(outcomes["a"].tokens) == min(24, 24 + extra)
    expect(outcomes, [asked], limits)


@pytest.mark.parametrize("chunks", range(1, 9), ids="after{}chunks".format)
@pytest.mark.parametrize("how", ["abort", "preempt"])
def test_g_an_end_in_the_middle_of_prefill_leaves_no_stale_prefix(how: str, chunks: int) -> None:
    """sglang#38319: pages of half a prompt in the prefix tree, freed by an abort or a retract."""
    limits = config(max_num_batched_tokens=6, block_size=4, num_blocks=20, max_model_len=80)
    loaded = engine(limits)
    asked = request("first", range(48), max_tokens=4)
    outcomes: dict[str, Outcome] = {}
    if how == "preempt":
        loaded.add(request("elder", [90] * 5, max_tokens=60, ignore_eos=True))
    loaded.add(asked)
    for _ in range(chunks):
        collect(outcomes, loaded.step())
    if how == "abort":
        loaded.abort("first")
    again = request("again", range(48), max_tokens=4)
    loaded.add(again)
    finish(loaded, outcomes)
    expect(outcomes, [again] if how == "abort" else [asked, again], limits)


@pytest.mark.parametrize("percent", [100, 105, 110, 120], ids="demand{}".format)
def test_g_a_pool_at_its_limit_mixes_no_requests(percent: int) -> None:
    """vllm#50702, vllm#39146, TensorRT-LLM#8813, lmdeploy#1744: every request carries a marker; none appears elsewhere."""
    limits = config(block_size=4, num_blocks=48 * 12 * 100 // (4 * percent), max_model_len=60, max_num_seqs=48)
    loaded = engine(limits)
    requests = [
        request(f"r{i}", [i, 1, 2, 3] + [i] * (i % 5), max_tokens=8, temperature=1.0, ignore_eos=True)
        for i in range(48)
    ]
    expect(serve(loaded, requests), requests, limits)


def test_g_cancel_and_retry_of_mixed_lengths() -> None:
    """vllm#37076, vllm#38606: long and short prompts, cancelled and sent again, greedy: ten runs, one answer."""
    limits = config(block_size=8, num_blocks=60, max_num_batched_tokens=32, max_model_len=200)
    loaded = engine(limits)
    outcomes: dict[str, Outcome] = {}
    kept = []
    for attempt, length in itertools.product(range(10), (12, 60, 150)):
        asked = request(f"{attempt}/{length}", range(length % 50, length % 50 + 40), max_tokens=5)
        loaded.add(request(f"{attempt}/{length}/cancelled", range(40), max_tokens=9))
        loaded.add(asked)
        kept.append(asked)
        collect(outcomes, loaded.step())
        loaded.abort(f"{attempt}/{length}/cancelled")
    finish(loaded, outcomes)
    expect(outcomes, kept, limits)


@pytest.mark.parametrize("step", [0, 1, 8], ids=["first", "second", "last"])
def test_g_a_cancelled_sequence_leaves_all_blocks_free(step: int) -> None:
    """TensorRT-LLM#15018, TensorRT-LLM#12542: cancel in step 0, 1, n-1; then free blocks == total."""
    limits = config(block_size=4)
    loaded = engine(limits)
    loaded.add(request("a", range(9), max_tokens=10, ignore_eos=True))
    for _ in range(step):
        loaded.step()
    loaded.abort("a")
    loaded.check_invariants()
    assert loaded.status().free_blocks == limits.num_blocks
    finish(loaded)


@pytest.mark.parametrize("length", [15, 16, 17, 32], ids="prompt{}".format)
def test_g_a_full_prefix_hit_leaves_a_token_to_compute(length: int) -> None:
    """vllm#17999, vllm#11186: the same prompt twice, its length around a multiple of the block size."""
    limits = config(block_size=16)
    loaded = engine(limits)
    first = serve(loaded, [request("a", range(length))])["a"]
    second = serve(loaded, [request("b", range(length))])["b"]
    assert first == second
    assert second.num_cached_tokens == (length - 1) // 16 * 16


def test_g_the_cache_key_covers_position_and_all_tokens_before() -> None:
    """vllm#56655: equal ids in another place, or behind other tokens, are another key."""
    limits = config(block_size=2)
    loaded = engine(limits)
    serve(loaded, [request("a", [1, 2, 3, 4, 9])])
    assert serve(loaded, [request("b", [3, 4, 1, 2, 9])])["b"].num_cached_tokens == 0
    assert serve(loaded, [request("c", [5, 6, 3, 4, 9])])["c"].num_cached_tokens == 0
    assert serve(loaded, [request("d", [1, 2, 5, 6, 9])])["d"].num_cached_tokens == 2


def test_h_batch_membership_that_changes_every_step() -> None:
    """vllm#31841, vllm#25279: plans in flight are not touched by later ones."""
    limits = config(max_num_seqs=8)
    worker = MockWorker(limits, delay_s=0.0005)
    loaded = Engine(limits, worker)
    requests = [request(f"r{i}", [i, 2], max_tokens=1 + i % 7, ignore_eos=True) for i in range(60)]
    outcomes: dict[str, Outcome] = {}
    for asked in requests:
        loaded.add(asked)
        collect(outcomes, loaded.step(0.001))
    finish(loaded, outcomes)
    expect(outcomes, requests, limits)


@pytest.mark.parametrize("short_of", [3, 2, 1, 0], ids="max-len-minus{}".format)
def test_h_sequences_that_end_near_max_model_len(short_of: int) -> None:
    """vllm#44185, vllm#44954: one request at the end of the context among others in the middle."""
    limits = config(max_model_len=128, block_size=16)
    near = request("near", [i % 90 for i in range(120)], max_tokens=8 - short_of, ignore_eos=True)
    others = [request(f"o{i}", [i] * 20, max_tokens=40, ignore_eos=True) for i in range(5)]
    expect(serve(engine(limits), [near, *others]), [near, *others], limits)


@pytest.mark.parametrize("length", [47, 48, 480], ids="prompt{}".format)
def test_i_the_limit_of_admission_is_the_limit_of_the_pool(length: int) -> None:
    """vllm#40302, ai-dynamo#3780, sglang#3910: the model allows 4096 tokens, the pool 48: refused, the engine alive."""
    limits = config(max_model_len=4096, block_size=16, num_blocks=3)
    loaded = engine(limits)
    if length < limits.max_request_tokens:
        loaded.add(request("a", [1] * length))
    else:
        with pytest.raises(RequestError, match="47"):
            loaded.add(request("a", [1] * length))
    asked = request("b", [2] * 10)
    finish(loaded)
    expect(serve(loaded, [asked]), [asked], limits)


@pytest.mark.parametrize("wrong", [-1, 97, 98, 2**31 - 1], ids="id{}".format)
@pytest.mark.parametrize("field", ["prompt", "stop_token_ids", "logit_bias"])
def test_i_ids_outside_the_vocabulary_fail_that_request_only(field: str, wrong: int) -> None:
    """vllm#9634, vllm#54196, vllm#44968: the others in the batch never notice."""
    limits = config()
    loaded = engine(limits)
    requests = [request(f"r{i}", [i], max_tokens=9) for i in range(8)]
    for asked in requests:
        loaded.add(asked)
    outcomes: dict[str, Outcome] = {}
    collect(outcomes, loaded.step())
    fields: dict[str, Any] = {"stop_token_ids": [wrong], "logit_bias": {wrong: 1}}
    sampling = {name: value for name, value in fields.items() if name == field}
    with pytest.raises(RequestError):
        loaded.add(request("bad", [wrong] if field == "prompt" else [1], **sampling))
    finish(loaded, outcomes)
    expect(outcomes, requests, limits)


def test_i_a_stop_token_sampled_first_for_one_of_32() -> None:
    """vllm#52693: a turn with nothing after its first token ends like any other."""
    limits = config()
    probe = request("probe", [7, 7, 7], max_tokens=1, ignore_eos=True)
    first = alone(probe, limits).token_ids[0]
    stopped = request("stopped", [7, 7, 7], max_tokens=20, stop_token_ids=[first])
    others = [request(f"o{i}", [i, i], max_tokens=12, ignore_eos=True) for i in range(31)]
    outcomes = serve(engine(limits), [*others[:16], stopped, *others[16:]])
    assert (outcomes["stopped"].token_ids, outcomes["stopped"].reason) == ([first], FinishReason.STOP)
    expect(outcomes, [stopped, *others], limits)


@pytest.mark.parametrize("victim", range(0, 16, 5), ids="victim{}".format)
@pytest.mark.parametrize("step", [0, 1, 2, 7], ids="step{}".format)
def test_i_a_failure_of_one_of_16_stays_with_it(victim: int, step: int) -> None:
    """vllm#55546, sglang#33187, sglang#33206: NaN in one row at each step; others bit-equal, nothing of it cached."""
    limits = config(block_size=2)
    requests = [request(f"r{i}", [i, i, i], max_tokens=12, ignore_eos=True) for i in range(16)]
    answer = alone(requests[victim], limits).token_ids
    bad_token = answer[step - 1] if step else victim
    healthy = [
        asked
        for asked in requests
        if bad_token not in alone(asked, limits).token_ids and bad_token not in asked.prompt_token_ids
    ]
    assert len(healthy) > 8
    loaded = engine(limits, bad_tokens=[bad_token])
    outcomes = serve(loaded, requests)
    assert isinstance(outcomes[f"r{victim}"].error, RequestFailedError)
    assert outcomes[f"r{victim}"].token_ids == (answer[: answer.index(bad_token) + 1] if step else [])
    expect(outcomes, healthy, limits)
    assert loaded.scheduler.index.match(array("I", [victim] * 3 + answer)) == []


@pytest.mark.parametrize("timeout_s", [0, None], ids=["in-flight", "at-rest"])
@pytest.mark.parametrize("step", range(9), ids="step{}".format)
def test_i_abort_at_every_chunk_boundary_and_in_flight(step: int, timeout_s: float | None) -> None:
    """sglang-jax#984, sglang#34112, TensorRT-LLM#12117: accounting exact at once, no token after the abort."""
    limits = config(max_num_batched_tokens=8, block_size=4)
    loaded = engine(limits, delay_s=0.002)
    loaded.add(request("a", range(40), max_tokens=20, ignore_eos=True))
    for _ in range(step):
        loaded.step(timeout_s)
    loaded.abort("a")
    loaded.check_invariants()
    assert loaded.status().free_blocks == limits.num_blocks
    assert [update.finish_reason for update in loaded.take_updates()] == [FinishReason.ABORT]
    assert finish(loaded) == {}


def test_i_half_of_200_clients_disconnect_at_random_times() -> None:
    """TensorRT-LLM#12117, LMCache#3688: the first abort killed the engine there."""
    limits = config(max_num_seqs=32, block_size=4, num_blocks=120, max_num_batched_tokens=64)
    loaded = engine(limits)
    requests = [request(f"r{i}", range(i % 40, i % 40 + 9), max_tokens=15, ignore_eos=True) for i in range(200)]
    for asked in requests:
        loaded.add(asked)
    outcomes: dict[str, Outcome] = {}
    for i in range(0, 200, 2):
        collect(outcomes, loaded.step())
        loaded.abort(f"r{i * 37 % 200}")
        loaded.check_invariants()
    finish(loaded, outcomes)
    assert len(outcomes) == 200
    expect(
        outcomes, [asked for asked in requests if outcomes[asked.request_id].reason is not FinishReason.ABORT], limits
    )


@pytest.mark.parametrize("length", [31, 32, 33, 64, 65], ids="prompt{}".format)
def test_i_prompt_scores_do_not_depend_on_the_prefix_cache(length: int) -> None:
    """vllm#42245, vllm#8268: the same prompt twice with prompt_logprobs, and once more without."""
    limits = config(block_size=32)
    loaded = engine(limits)
    requests = [request(name, range(length), prompt_logprobs=2) for name in "ab"] + [request("c", range(length))]
    for asked in requests:
        expect(serve(loaded, [asked]), [asked], limits)
    assert loaded.status().prefix_hits == (length - 1) // 32 * 32


def test_i_a_dead_worker_is_reported_not_hidden() -> None:
    """vllm#39863, vllm#21728, vllm#24897: 64 requests, the worker killed: all end, and the status says so."""
    limits = config()
    worker = MockWorker(limits)
    loaded = Engine(limits, worker)
    for i in range(64):
        loaded.add(request(f"r{i}", [i], max_tokens=99, ignore_eos=True))
    outcomes: dict[str, Outcome] = {}
    for _ in range(5):
        collect(outcomes, loaded.step())
    worker.die("the worker ended: signal 9", exit_code=-9)
    collect(outcomes, loaded.step())
    assert len(outcomes) == 64
    assert all(isinstance(outcome.error, WorkerDiedError) for outcome in outcomes.values())
    assert not loaded.status().alive

"""The engine's promises to one request: the right tokens, the right end, exactly one end."""

from __future__ import annotations

from array import array
from collections import deque
from pathlib import Path

import msgspec
import pytest

from engine.harness import Outcome, alone, collect, config, finish, request, sampled, serve
from octavo.engine import Engine, FinishReason, StepLog
from octavo.errors import ConfigError, RequestFailedError, WorkerDiedError
from octavo.messages import PromptScores, StepPlan, StepResult, TokenScore
from octavo.testing.mock_worker import MockWorker


class ScriptedWorker(MockWorker):
    """Answers what a test says instead of what the model would."""

    def __init__(self, limits: object, *script: StepResult) -> None:
        super().__init__(limits)  # type: ignore[arg-type]
        self.script = deque(script)

    def receive(self, timeout_s: float | None) -> StepResult | None:
        assert super().receive(timeout_s) is not None
        return self.script.popleft()


def result(step: int, *tokens: int, **more: object) -> StepResult:
    """A step in which slot 0 gets `tokens` (none or one)."""
    return StepResult(step=step, sampled=[sampled(0, token) for token in tokens], **more)  # type: ignore[arg-type]


def scripted(*script: StepResult, **sampling: object) -> tuple[Outcome, Engine]:
    limits = config()
    engine = Engine(limits, ScriptedWorker(limits, *script))
    engine.add(request("a", [1, 2, 3], **sampling))
    outcomes: dict[str, Outcome] = {}
    while "a" in engine.sequences:
        collect(outcomes, engine.step())
        engine.check_invariants()
    return outcomes["a"], engine


def test_max_tokens_ends_with_length() -> None:
    outcome, _engine = scripted(result(1, 5), result(2, 6), max_tokens=2)
    assert (outcome.token_ids, outcome.reason, outcome.stop_token_id) == ([5, 6], FinishReason.LENGTH, None)


def test_eos_ends_with_stop_and_is_the_last_token() -> None:
    outcome, _engine = scripted(result(1, 5), result(2, 96), max_tokens=9)
    assert (outcome.token_ids, outcome.reason, outcome.stop_token_id) == ([5, 96], FinishReason.STOP, None)


def test_a_stop_id_is_named() -> None:
    outcome, _engine = scripted(result(1, 5), result(2, 7), max_tokens=9, stop_token_ids=[7])
    assert (outcome.token_ids, outcome.reason, outcome.stop_token_id) == ([5, 7], FinishReason.STOP, 7)


def test_an_ignored_eos_goes_on_and_ends_only_as_a_stop_id() -> None:
    outcome, _engine = scripted(result(1, 96), result(2, 6), max_tokens=2, ignore_eos=True)
    assert (outcome.token_ids, outcome.reason) == ([96, 6], FinishReason.LENGTH)
    outcome, _engine = scripted(result(1, 96), max_tokens=2, ignore_eos=True, stop_token_ids=[96])
    assert (outcome.token_ids, outcome.stop_token_id) == ([96], 96)


def test_a_stop_at_the_last_token_is_a_stop() -> None:
    outcome, _engine = scripted(result(1, 5), result(2, 96), max_tokens=2)
    assert outcome.reason is FinishReason.STOP


@pytest.mark.parametrize("min_tokens", [0, 1, 2, 3])
def test_stop_ids_count_only_after_min_tokens(min_tokens: int) -> None:
    script = [result(i, 96) for i in range(1, 6)]
    outcome, _engine = scripted(*script, max_tokens=9, min_tokens=min_tokens)
    assert len(outcome.tokens) == min_tokens + 1


def test_the_token_planned_behind_a_stop_is_dropped() -> None:
    outcome, engine = scripted(result(1, 96), result(2, 50), max_tokens=9)
    assert outcome.token_ids == [96]
    in_flight = engine.has_work
    assert in_flight, "the step in flight is still to be read"
    assert engine.step() == []
    assert not engine.has_work
    engine.check_invariants()


def test_a_bad_row_ends_that_request_alone_and_leaves_no_cached_block() -> None:
    """NaN after several good steps: neither its new nor its earlier blocks stay in the prefix index."""
    limits = config(block_size=2, max_num_batched_tokens=8)
    bad = request("bad", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 50], max_tokens=4)
    good = [request(f"g{i}", [20 + i] * 9, max_tokens=6) for i in range(15)]
    engine = Engine(limits, MockWorker(limits, bad_tokens=[50]))
    outcomes = serve(engine, [*good[:7], bad, *good[7:]])
    assert isinstance(outcomes["bad"].error, RequestFailedError)
    assert (outcomes["bad"].tokens, outcomes["bad"].reason) == ([], FinishReason.ERROR)
    assert all(outcomes[asked.request_id] == alone(asked, limits) for asked in good)
    assert engine.scheduler.index.match(array("I", [1, 2, 3])) == []
    assert engine.scheduler.index.match(array("I", [20] * 9)) != []
    assert engine.status().finished["error"] == 1


def test_a_bad_row_of_a_preempted_sequence_leaves_no_cached_block() -> None:
    """Its result comes when its blocks, some of them registered, have been given back already."""
    limits = config(block_size=2, num_blocks=8, max_model_len=16, max_num_batched_tokens=4)
    engine = Engine(limits, MockWorker(limits, bad_tokens=[50]))
    elder = request("elder", [1, 2], max_tokens=10, ignore_eos=True)
    bad = request("bad", [3, 4, 5, 6, 7, 8, 50, 9], max_tokens=4)
    engine.add(elder)
    engine.add(bad)
    while len(engine.scheduler.running) < 2 or engine.scheduler.running[1].computed < 2:
        engine.step()
    assert engine.scheduler.index.match(array("I", [3, 4, 9])) != []
    victim = engine.scheduler.running.pop()
    engine.scheduler._preempt(victim)
    outcomes = finish(engine)
    assert isinstance(outcomes["bad"].error, RequestFailedError)
    assert engine.scheduler.index.match(array("I", [3, 4, 9])) == []


def test_a_bad_row_that_read_a_cached_prefix_takes_it_out_of_the_cache() -> None:
    limits = config(block_size=2)
    engine = Engine(limits, MockWorker(limits, bad_tokens=[50]))
    serve(engine, [request("good", [1, 2, 3, 4, 5])])
    assert len(engine.scheduler.index.match(array("I", [1, 2, 3, 4, 5]))) == 2
    serve(engine, [request("bad", [1, 2, 3, 4, 50])])
    assert engine.scheduler.index.match(array("I", [1, 2, 3, 4, 5])) == []


def test_prompt_scores_come_whole_with_the_first_token() -> None:
    limits = config(max_num_batched_tokens=4)
    asked = [request(f"r{i}", range(i, i + 11), max_tokens=3, prompt_logprobs=i) for i in range(3)]
    outcomes = serve(Engine(limits, MockWorker(limits)), asked)
    for each in asked:
        assert outcomes[each.request_id] == alone(each, limits)
        scores = outcomes[each.request_id].prompt_scores
        assert scores is not None
        assert [score.token_id for score in scores] == list(each.prompt_token_ids[1:])


def test_a_prompt_of_one_token_has_no_scores() -> None:
    limits = config()
    outcomes = serve(Engine(limits, MockWorker(limits)), [request("a", [5], prompt_logprobs=1, max_tokens=1)])
    assert outcomes["a"].prompt_scores == []


def test_missing_prompt_scores_fail_the_request_not_the_engine() -> None:
    scores = PromptScores(0, 1, [TokenScore(2, -1.0, 1, [])])
    outcome, engine = scripted(result(1, 5, prompt_scores=[scores]), max_tokens=9, prompt_logprobs=0)
    assert isinstance(outcome.error, RequestFailedError)
    assert engine.death is None


def test_the_first_update_tells_cached_tokens_and_queue_time() -> None:
    limits = config(block_size=4)
    engine = Engine(limits, MockWorker(limits))
    first = serve(engine, [request("a", range(10), max_tokens=3)])["a"]
    engine.add(request("b", range(10), max_tokens=3))
    updates = engine.step()
    assert (first.num_cached_tokens, updates[0].num_cached_tokens) == (0, 8)
    assert updates[0].queue_s is not None
    assert updates[0].queue_s >= 0
    assert engine.step()[0].queue_s is None
    finish(engine)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(result(2, 5), id="another-step"),
        pytest.param(result(1), id="no-token"),
        pytest.param(StepResult(step=1, sampled=[sampled(3, 5)]), id="another-slot"),
        pytest.param(StepResult(step=1, sampled=[sampled(0, 5), sampled(0, 5)]), id="twice"),
        pytest.param(
            result(1, 5, prompt_scores=[PromptScores(0, 0, [TokenScore(2, -1.0, 1, [])])]), id="score-before-1"
        ),
        pytest.param(
            result(1, 5, prompt_scores=[PromptScores(0, 3, [TokenScore(2, -1.0, 1, [])])]), id="score-past-end"
        ),
        pytest.param(result(1, 5, bad_slots=[7]), id="another-bad-slot"),
        pytest.param(result(1, 5, bad_slots=[0]), id="bad-and-sampled"),
    ],
)
def test_a_worker_that_answers_what_was_not_asked_counts_as_dead(broken: StepResult) -> None:
    outcome, engine = scripted(broken, max_tokens=9, prompt_logprobs=0)
    assert outcome.reason is FinishReason.ERROR
    assert isinstance(engine.death, WorkerDiedError)


@pytest.mark.parametrize("death", [1, 2, 3, 5], ids="at-step{}".format)
def test_death_of_the_worker_ends_every_request_at_once(death: int) -> None:
    limits = config(max_num_seqs=4)
    engine = Engine(limits, MockWorker(limits, die_at_step=death))
    for i in range(10):
        engine.add(request(f"r{i}", [i], max_tokens=50, ignore_eos=True))
    outcomes = finish(engine)
    assert len(outcomes) == 10
    assert {type(outcome.error) for outcome in outcomes.values()} == {WorkerDiedError}
    status = engine.status()
    assert (status.alive, status.finished["error"]) == (False, 10)
    with pytest.raises(WorkerDiedError, match="told to die"):
        engine.add(request("late", [1]))


def test_death_is_seen_with_nothing_to_do() -> None:
    limits = config()
    worker = MockWorker(limits)
    engine = Engine(limits, worker)
    worker.die("gone")
    assert engine.step(0) == []
    assert not engine.status().alive


def test_abort_is_answered_once_and_no_token_follows() -> None:
    limits = config()
    engine = Engine(limits, MockWorker(limits))
    engine.add(request("a", [1], max_tokens=50, ignore_eos=True))
    engine.step()
    engine.abort("a")
    engine.abort("a")
    engine.abort("never")
    assert [(update.finish_reason, update.tokens) for update in engine.step()] == [(FinishReason.ABORT, ())]
    assert engine.status().free_blocks == limits.num_blocks
    finish(engine)


def test_the_prefix_cache_is_reset_only_when_nothing_runs() -> None:
    limits = config(block_size=2)
    engine = Engine(limits, MockWorker(limits))
    engine.add(request("a", range(9), max_tokens=3))
    assert not engine.reset_prefix_cache()
    finish(engine)
    assert len(engine.scheduler.index) > 0
    assert engine.reset_prefix_cache()
    assert len(engine.scheduler.index) == 0
    engine.check_invariants()


def test_prefix_caching_can_be_off() -> None:
    limits = config(block_size=2, prefix_caching=False)
    engine = Engine(limits, MockWorker(limits))
    for name in "ab":
        assert serve(engine, [request(name, range(9))])[name].num_cached_tokens == 0
    assert (len(engine.scheduler.index), engine.status().prefix_queries) == (0, 0)


def test_more_blocks_than_the_worker_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"num_blocks: .*2000.*1000"):
        Engine(config(num_blocks=2000), MockWorker(config(num_blocks=1000)))


def test_counters_add_up() -> None:
    limits = config(block_size=4)
    engine = Engine(limits, MockWorker(limits))
    serve(engine, [request("a", range(10), max_tokens=3, ignore_eos=True)])
    serve(engine, [request("b", range(10), max_tokens=5, ignore_eos=True)])
    status = engine.status()
    assert (status.prompt_tokens, status.generation_tokens) == (20, 8)
    assert (status.prefix_queries, status.prefix_hits) == (20, 8)
    assert status.finished == {"stop": 0, "length": 2, "abort": 0, "error": 0}
    assert (status.kv_usage, status.num_restarts, status.steps) == (0, 0, 8)


def test_a_step_log_line_shows_what_the_step_was_made_of(tmp_path: Path) -> None:
    limits = config(vocab_size=5000, eos_token_ids=(4999,))
    log = StepLog(tmp_path / "steps.jsonl")
    requests = [request(f"r{i}", range(i, i + 1001), max_tokens=1) for i in range(10)]
    serve(Engine(limits, MockWorker(limits), log), requests)
    log.close()
    lines = (tmp_path / "steps.jsonl").read_text().splitlines()
    assert lines[0].startswith(
        '{"step":1,"tokens":8192,"chunks":[1001,1001,1001,1001,1001,1001,1001,1001,184],"prefill_tokens":8192,'
        '"decode_tokens":0,"running":9,"waiting":1,'
    )
    assert len(lines) == 2
    with pytest.raises(ConfigError, match="step_log"):
        StepLog(tmp_path / "absent" / "steps.jsonl")


def test_a_full_disk_ends_the_step_log_not_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    limits = config()
    asked = request("a", range(5), max_tokens=4)
    outcomes = serve(Engine(limits, MockWorker(limits), StepLog(Path("/dev/full"))), [asked])
    assert outcomes["a"] == alone(asked, limits)
    assert caplog.text.count("ends here: No space left on device") == 1


def test_plans_are_plain_data_that_survive_the_wire() -> None:
    limits = config()
    worker = MockWorker(limits)
    serve(Engine(limits, worker), [request("a", range(5), max_tokens=2, logit_bias={3: 1.5})])
    for plan in worker.plans:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=StepPlan) == plan

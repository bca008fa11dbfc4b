"""The whole engine under a state machine: whatever happens around a request, it answers what it answers alone."""

from __future__ import annotations

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.harness import Outcome, alone, collect, finish
from octavo.config import EngineConfig
from octavo.engine import Engine, FinishReason, Request, StepRecord
from octavo.engine.recovery.supervisor import RestartBudget, Supervisor
from octavo.engine.statistics import RecoveryRecord
from octavo.errors import RequestError, RequestFailedError, WorkerDiedError
from octavo.messages import StepResult
from octavo.sampling import SamplingParams
from octavo.testing.mock_worker import MockSource, MockWorker

VOCAB = 29
EOS = 28


class HesitantWorker(MockWorker):
    """Has no result ready while `holding`."""

    holding = False

    def receive(self, timeout_s: float | None) -> StepResult | None:
        return None if self.holding else super().receive(timeout_s)


@st.composite
def limits(draw: st.DrawFn) -> EngineConfig:
    block_size = draw(st.sampled_from([1, 2, 3, 4, 16]))
    pool_tokens = draw(st.integers(6, 60))
    return EngineConfig(
        vocab_size=VOCAB,
        eos_token_ids=(EOS,),
        max_model_len=draw(st.integers(6, 40)),
        max_num_batched_tokens=draw(st.integers(1, 24)),
        max_num_seqs=draw(st.integers(1, 6)),
        block_size=block_size,
        num_blocks=-(-pool_tokens // block_size),
        prefix_caching=draw(st.booleans()),
        priorities=draw(st.booleans()),
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 1, 3])),
        num_snapshots=draw(st.sampled_from([None, 0, 1, 3])),
        snapshot_spacing=draw(st.sampled_from([1, 4, 1000])),
    )


@st.composite
def prompts(draw: st.DrawFn) -> list[int]:
    """Prompts that share prefixes."""
    base = draw(st.sampled_from([[1, 2, 3, 4, 5, 6, 7, 8] * 3, [1, 2, 3, 4, 9, 9, 9, 9] * 2, [5]]))
    return base[: draw(st.integers(1, len(base)))] + draw(st.lists(st.integers(0, VOCAB - 1), max_size=3))


@st.composite
def samplings(draw: st.DrawFn) -> SamplingParams:
    max_tokens = draw(st.integers(1, 12))
    return SamplingParams(
        temperature=draw(st.sampled_from([0.0, 1.0])),
        seed=draw(st.sampled_from([None, 3])),
        max_tokens=max_tokens,
        min_tokens=draw(st.integers(0, max_tokens)),
        stop_token_ids=draw(st.lists(st.integers(0, VOCAB - 1), max_size=3)),
        ignore_eos=draw(st.booleans()),
        logprobs=draw(st.sampled_from([None, 0, 2])),
        prompt_logprobs=draw(st.sampled_from([None, None, 1])),
        allowed_token_ids=draw(st.sampled_from([None, None, [*range(0, VOCAB, 2)], [3, 4, 5]])),
        bad_word_ids=draw(st.sampled_from([[], [], [[3]], [[4, 5], [5, 4, 3], [2, 2]], [[3], [4], [5]]])),
        logprob_token_ids=draw(st.sampled_from([None, None, [7, 1]])),
    )


class EngineMachine(RuleBasedStateMachine):
    @initialize(
        config=limits(),
        bad_tokens=st.sampled_from([(), (), (9,), (17, 20)]),
        most_restarts=st.sampled_from([0, 2, 1000]),
    )
    def begin(self, config: EngineConfig, bad_tokens: tuple[int, ...], most_restarts: int) -> None:
        note(f"{config} bad {bad_tokens}, {most_restarts} restarts")
        self.config = config
        self.bad_tokens = bad_tokens
        self.most_restarts = most_restarts
        self.source = MockSource(config, lambda _, config: HesitantWorker(config, bad_tokens=bad_tokens))
        self.records: list[StepRecord] = []
        self.recoveries: list[RecoveryRecord] = []
        supervisor = Supervisor(self.source, RestartBudget(most_restarts, 1e9), self.recoveries.append)
        self.engine = Engine(config, self.source.start(None), self.records.append, supervisor=supervisor)
        self.num_steps = 0
        self.deaths = 0
        self.requests: dict[str, Request] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.aborted: set[str] = set()

    @property
    def worker(self) -> HesitantWorker:
        worker = self.source.workers[-1]
        assert isinstance(worker, HesitantWorker)
        return worker

    @property
    def dead(self) -> bool:
        return self.engine.death is not None

    @rule(
        prompt=prompts(),
        sampling=samplings(),
        salt=st.sampled_from([None, None, "a", "b"]),
        priority=st.sampled_from([0, 0, -3, 5]),
    )
    def add(self, prompt: list[int], sampling: SamplingParams, salt: str | None, priority: int) -> None:
        priority = priority if self.config.priorities else 0
        request = Request(f"r{len(self.requests)}", prompt, sampling, cache_salt=salt, priority=priority)
        if sampling.min_tokens and {*(sampling.allowed_token_ids or [-1])} <= self.stop_ids(sampling):
            with pytest.raises(WorkerDiedError if self.dead else RequestError):
                self.engine.add(request)
            return
        if self.dead:
            with pytest.raises(WorkerDiedError):
                self.engine.add(request)
            return
        room = self.config.max_request_tokens - len(prompt)
        if room < max(1, sampling.min_tokens):
            with pytest.raises(RequestError, match="prompt has" if room < 1 else "min_tokens"):
                self.engine.add(request)
            return
        self.engine.add(request)
        self.requests[request.request_id] = request
        self.outcomes[request.request_id] = Outcome()

    def stop_ids(self, sampling: SamplingParams) -> set[int]:
        return {*sampling.stop_token_ids, *(() if sampling.ignore_eos else (EOS,))}

    @rule()
    def step(self) -> None:
        collect(self.outcomes, self.engine.step())

    @rule()
    def step_before_the_result(self) -> None:
        self.worker.holding = True
        collect(self.outcomes, self.engine.step(0))
        self.worker.holding = False

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        if request_id in self.engine.sequences:
            self.aborted.add(request_id)
        self.engine.abort(request_id)
        collect(self.outcomes, self.engine.take_updates())
        assert self.outcomes[request_id].reason, "an abort is answered at once"

    @rule()
    def reset_prefix_cache(self) -> None:
        assert self.engine.reset_prefix_cache() == (not self.engine.sequences)

    @precondition(lambda self: len(self.requests) > 4 or self.most_restarts > 2)
    @rule(dice=st.integers(0, 9))
    def kill_worker(self, dice: int) -> None:
        if (dice == 0 or self.most_restarts > 2) and self.worker.alive:
            self.worker.die("killed")
            self.deaths += 1

    @invariant()
    def books(self) -> None:
        self.engine.check_invariants()
        assert len(self.engine.scheduler.running) <= self.config.max_num_seqs
        for record in self.records:
            self.num_steps += 1
            assert record.step == self.num_steps, "steps count on over all workers"
            assert record.tokens == sum(record.chunks) + record.decode_tokens
            assert 0 < record.tokens <= self.config.max_num_batched_tokens
        self.records.clear()

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        finish(self.engine, self.outcomes)
        assert [self.engine.step(0) for _ in range(2)] == [[], []]
        assert set(self.outcomes) == set(self.requests)
        for request_id, outcome in self.outcomes.items():
            self.compare(outcome, alone(self.requests[request_id], self.config, self.bad_tokens), request_id)
        assert self.dead <= (self.deaths > self.most_restarts)
        status = self.engine.status()
        assert status.num_restarts == len(self.source.workers) - 1
        assert not status.recovering
        if not self.dead:
            assert status.restarts["signal"] == sum(record.restarts for record in self.recoveries) <= self.deaths
            assert status.requests_replayed >= sum(record.requests for record in self.recoveries)
            self.engine.reset_prefix_cache()
            assert self.engine.status().free_blocks == self.config.num_blocks

    def compare(self, outcome: Outcome, expected: Outcome, request_id: str) -> None:
        if outcome.reason is FinishReason.ABORT:
            assert request_id in self.aborted
            assert outcome.tokens == expected.tokens[: len(outcome.tokens)]
        elif isinstance(outcome.error, WorkerDiedError):
            assert self.dead
            assert outcome.tokens == expected.tokens[: len(outcome.tokens)]
        else:
            assert outcome == expected
            assert isinstance(outcome.error, RequestFailedError) == (outcome.reason is FinishReason.ERROR)


EngineMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestEngineMachine = EngineMachine.TestCase

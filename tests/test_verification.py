"""`octavo verify` passes on a worker that keeps the promises and fails on those that break them."""

from __future__ import annotations

import abc
import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.config import EngineConfig
from octavo.messages import SampledToken, StepPlan, StepResult, TokenScore
from octavo.testing.mock_worker import MockWorker
from octavo.verification import Verification

CONFIG = EngineConfig(
    vocab_size=100,
    eos_token_ids=(0,),
    max_model_len=1100,
    max_num_batched_tokens=1024,
    max_num_seqs=64,
    block_size=16,
    num_blocks=700,
)


class WrongWorker(MockWorker, abc.ABC):
    """Makes logprobs a little wrong in the steps that `_is_wrong` picks."""

    @abc.abstractmethod
    def _is_wrong(self, plan: StepPlan) -> bool: ...

    def _run(self, plan: StepPlan) -> StepResult:
        result = super()._run(plan)
        if self._is_wrong(plan):
            result.sampled[:] = [_one_bit_off(token) for token in result.sampled]
        return result


def _one_bit_off(token: SampledToken) -> SampledToken:
    if token.score is None:
        return token
    score = TokenScore(token.token_id, token.score.logprob + 2**-40, token.score.rank, token.score.top)
    return SampledToken(token.slot, token.token_id, score)


class WrongInCompany(WrongWorker):
    def _is_wrong(self, plan: StepPlan) -> bool:
        return len(plan.chunks) > 1


class WrongFromCache(WrongWorker):
    """Prompts whose first chunk starts behind a cached prefix."""

    def _is_wrong(self, plan: StepPlan) -> bool:
        admitted = {admission.slot for admission in plan.admissions}
        return any(chunk.slot in admitted and chunk.start > 0 for chunk in plan.chunks)


class WrongInChunks(WrongWorker):
    def _is_wrong(self, plan: StepPlan) -> bool:
        return any(chunk.count == 37 for chunk in plan.chunks)


class WrongAfterPreemption(WrongWorker):
    """Requests that come back with tokens already made."""

    def _is_wrong(self, plan: StepPlan) -> bool:
        return any(len(admission.token_ids) > admission.num_prompt_tokens for admission in plan.admissions)


class WrongPrompts(MockWorker):
    """One bit of the last score of a prompt that is longer than a token."""

    def _run(self, plan: StepPlan) -> StepResult:
        result = super()._run(plan)
        for part in result.prompt_scores:
            last = part.scores[-1]
            part.scores[-1] = TokenScore(last.token_id, last.logprob + 2**-40, last.rank, last.top)
        return result


class DiesAt(MockWorker):
    """Dies in a step of exactly 1001 tokens in several chunks."""

    def send(self, plan: StepPlan) -> None:
        if len(plan.chunks) > 1 and sum(chunk.count for chunk in plan.chunks) == 1001:
            self.die("illegal memory access")
        super().send(plan)


def failures(worker: MockWorker, config: EngineConfig = CONFIG) -> dict[str, str]:
    """Name of each failed case to its trouble."""
    verification = Verification(worker, config, quick=True)
    verification.run_alone()
    outcomes = [*(verification.run(case) for case in verification.cases())]
    outcomes += [verification.scored_as_prompts(), verification.refusals()]
    assert len({outcome.name for outcome in outcomes}) == len(outcomes)
    return {outcome.name: outcome.trouble for outcome in outcomes if outcome.trouble}


def test_a_worker_that_keeps_the_promises_passes_every_case() -> None:
    assert failures(MockWorker(CONFIG)) == {}


@st.composite
def limits(draw: st.DrawFn) -> EngineConfig:
    """Of any size that serves a prompt and an answer of one token each."""
    block_size = draw(st.sampled_from([1, 3, 16, 64, 300]))
    longest = draw(st.integers(2, 40) | st.integers(2, 400))
    max_num_seqs = draw(st.sampled_from([1, 2, 5, 64]))
    return dataclasses.replace(
        CONFIG,
        max_model_len=longest,
        max_num_batched_tokens=draw(st.sampled_from([1, 2, 7, 13, 64, 200, 1024])),
        max_num_seqs=max_num_seqs,
        block_size=block_size,
        num_blocks=draw(st.integers(1, 4)) * -(-longest // block_size),
        long_prefill_token_threshold=draw(st.sampled_from([0, 1, 50])),
        max_num_queued_reqs=draw(st.sampled_from([None, 1])),
        max_num_queued_tokens=draw(st.sampled_from([None, 1])),
        num_snapshots=draw(st.sampled_from([None, 0, -(-max_num_seqs // 2)])),
    )


@settings(deadline=None, max_examples=40)
@given(limits())
def test_it_passes_whatever_the_limits(config: EngineConfig) -> None:
    assert failures(MockWorker(config), config) == {}


@pytest.mark.parametrize(
    ("worker", "case"),
    [
        (WrongInCompany, "in reverse order"),
        (WrongFromCache, "prefix from the cache"),
        (WrongInChunks, "prompts in chunks of 37 tokens"),
        (WrongAfterPreemption, "preempted"),
        (WrongPrompts, "answers scored as prompts"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_wrong_bit_fails_its_case(worker: type[MockWorker], case: str) -> None:
    assert "differ" in failures(worker(CONFIG))[case]


def test_a_death_fails_its_case_and_those_after() -> None:
    worker = DiesAt(CONFIG)
    verification = Verification(worker, CONFIG, quick=True)
    verification.run_alone()
    troubles = [verification.run(case).trouble for case in verification.cases()]
    fatal = next(number for number, trouble in enumerate(troubles) if trouble)
    assert all("illegal memory access" in trouble for trouble in troubles[fatal:])
    assert verification.scored_as_prompts().trouble == "illegal memory access"
    assert verification.refusals().trouble == "illegal memory access"


def test_a_case_that_did_not_happen_is_no_pass() -> None:
    verification = Verification(MockWorker(CONFIG), CONFIG, quick=True)
    verification.run_alone()
    case = next(case for case in verification.cases() if case.name == "preempted")
    outcome = verification.run(dataclasses.replace(case, older=0))
    assert outcome.trouble == "nothing proved: no request was preempted"


def test_probes_cover_every_sampling_and_all_fit() -> None:
    for quick, block_size in itertools.product((True, False), (16, 64)):
        config = EngineConfig(
            vocab_size=10, eos_token_ids=(), max_model_len=64, block_size=block_size, num_blocks=100, max_num_seqs=4
        )
        probes = Verification(MockWorker(config), config, quick=quick).probes
        assert len({probe.request_id for probe in probes}) == len(probes) >= 3
        assert all(len(probe.prompt_token_ids) + (probe.sampling.max_tokens or 0) <= 64 for probe in probes)

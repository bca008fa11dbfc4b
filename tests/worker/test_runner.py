"""The runner on the exact toy model, against the toy's formula."""

from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.messages import Admission, Chunk, StepPlan, TokenScore
from octavo.sampling import SamplingParams
from octavo.worker.runner import Runner
from worker.reference import reference_score
from worker.toy import POISON, VOCAB, ToyModel, toy_cache, toy_config, toy_logits, toy_runner

GREEDY = SamplingParams(temperature=0, max_tokens=None)
PROMPT = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7]


def admit(slot: int, token_ids: list[int] = PROMPT, sampling: SamplingParams = GREEDY) -> Admission:
    return Admission(slot, token_ids, len(token_ids), sampling, [])


def greedy_tokens(prompt: list[int], count: int) -> list[int]:
    history = list(prompt)
    for _ in range(count):
        history.append(int(toy_logits(history).argmax()))
    return history[len(prompt) :]


def test_plans_run_in_order_and_a_token_in_flight_needs_no_plan_that_knows_it() -> None:
    runner = toy_runner()
    first = runner.run(StepPlan(1, [], [admit(2)], [Chunk(2, 0, 10, [7, 3, 11], True)]))
    second = runner.run(StepPlan(2, [], [], [Chunk(2, 10, 1, [], True)]))
    tokens = [first.sampled[0].token_id, second.sampled[0].token_id]
    assert tokens == greedy_tokens(PROMPT, 2)
    assert (first.step, second.step) == (1, 2)
    assert first.bad_slots == second.bad_slots == []
    assert first.elapsed_s > 0


def test_a_plan_of_releases_alone_runs() -> None:
    runner = toy_runner()
    runner.run(StepPlan(1, [], [admit(0)], [Chunk(0, 0, 10, [0, 1, 2], True)]))
    result = runner.run(StepPlan(2, [0], [], []))
    assert (result.step, result.sampled, result.prompt_scores, result.bad_slots) == (2, [], [], [])
    runner.run(StepPlan(3, [], [admit(0)], [Chunk(0, 0, 10, [0, 1, 2], True)]))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 3), st.booleans())
def test_prompt_scores_cross_chunk_borders_exactly(cuts: list[int], num_top: int, small_pieces: bool) -> None:
    runner = toy_runner()
    if small_pieces:
        runner._rows_of_logits, runner._rows_at_once = 3, 2
    runner.run(StepPlan(1, [], [admit(0, [1, 2])], [Chunk(0, 0, 2, [20, 21, 22, 23, 24], True)]))
    sampling = GREEDY.replace(prompt_logprobs=num_top)
    start, step = 0, 2
    scores: dict[int, TokenScore] = {}
    tokens: list[int] = []
    for cut in [*cuts, len(PROMPT)]:
        count = min(cut, len(PROMPT) - start)
        if count == 0:
            break
        chunk = Chunk(1, start, count, [5, 6, 4] if start == 0 else [], start + count == len(PROMPT))
        admissions = [admit(1, PROMPT, sampling)] if start == 0 else []
        result = runner.run(StepPlan(step, [], admissions, [Chunk(0, step, 1, [], True), chunk]))
        for part in result.prompt_scores:
            assert part.slot == 1
            scores.update(enumerate(part.scores, part.start))
        tokens += [token.token_id for token in result.sampled if token.slot == 1]
        start, step = start + count, step + 1
    assert sorted(scores) == list(range(1, len(PROMPT)))
    assert tokens == greedy_tokens(PROMPT, 1)
    for position, score in scores.items():
        logprob, rank, top = reference_score(toy_logits(PROMPT[:position]).tolist(), PROMPT[position], num_top)
        assert (score.token_id, score.rank) == (PROMPT[position], rank)
        assert score.logprob == pytest.approx(logprob, abs=1e-6)
        assert [token_id for token_id, _ in score.top] == [token_id for token_id, _ in top]
        assert [value for _, value in score.top] == pytest.approx([value for _, value in top], abs=1e-6)


def test_prompt_scores_stop_at_the_prompt_when_made_tokens_are_computed_again() -> None:
    sampling = GREEDY.replace(prompt_logprobs=0)
    admission = Admission(0, PROMPT, 4, sampling, [])
    result = toy_runner().run(StepPlan(1, [], [admission], [Chunk(0, 0, 10, [0, 1, 2], True)]))
    assert [(part.start, len(part.scores)) for part in result.prompt_scores] == [(1, 3)]


def test_a_single_prompt_token_has_no_scores() -> None:
    admission = admit(0, [5], GREEDY.replace(prompt_logprobs=2))
    assert toy_runner().run(StepPlan(1, [], [admission], [Chunk(0, 0, 1, [0], True)])).prompt_scores == []


def test_rows_are_answered_in_pieces_with_the_same_result() -> None:
    def run(rows_of_logits: int, rows_at_once: int) -> object:
        runner = toy_runner()
        runner._rows_of_logits, runner._rows_at_once = rows_of_logits, rows_at_once
        sampling = SamplingParams(seed=4, logprobs=3, prompt_logprobs=1)
        admissions = [admit(slot, PROMPT[slot:], sampling if slot != 1 else GREEDY) for slot in range(3)]
        chunks = [Chunk(slot, 0, 10 - slot, [3 * slot, 3 * slot + 1, 3 * slot + 2], True) for slot in range(3)]
        result = runner.run(StepPlan(1, [], admissions, chunks))
        return result.sampled, result.prompt_scores

    assert run(512, 512) == run(1, 1) == run(512, 2) == run(3, 2) == run(4, 8)


class WatchedModel(ToyModel):
    """Counts how many products of logits are alive when it makes another."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[weakref.ref[object]] = []
        self.alive_at_once = 0

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        self.alive_at_once = max(self.alive_at_once, 1 + sum(made() is not None for made in self.made))
        memory = super().logits(hidden).numpy().copy()
        self.made.append(weakref.ref(memory))
        return torch.from_numpy(memory)


def test_logits_are_let_go_before_others_are_made() -> None:
    model, config = WatchedModel(), toy_config()
    runner = Runner(model, toy_cache(config), config, vocab_size=VOCAB)
    runner._rows_of_logits, runner._rows_at_once = 4, 2
    admissions = [admit(slot, PROMPT, SamplingParams(seed=1, prompt_logprobs=0)) for slot in range(4)]
    chunks = [Chunk(slot, 0, 10, [3 * slot, 3 * slot + 1, 3 * slot + 2], True) for slot in range(4)]
    runner.run(StepPlan(1, [], admissions, chunks))
    assert len(model.made) >= 10
    assert model.alive_at_once == 1


def test_a_token_has_as_many_top_scores_as_asked_for() -> None:
    asked = [None, 0, 3, 100]
    admissions = [admit(slot, PROMPT, GREEDY.replace(logprobs=n)) for slot, n in enumerate(asked)]
    chunks = [Chunk(slot, 0, 10, [3 * slot, 3 * slot + 1, 3 * slot + 2], True) for slot in range(4)]
    result = toy_runner().run(StepPlan(1, [], admissions, chunks))
    scores = [token.score for token in result.sampled]
    assert scores[0] is None
    assert [len(score.top) for score in scores[1:] if score is not None] == [0, 3, VOCAB]


@pytest.mark.parametrize("sample", [True, False], ids=["sampled", "mid-prefill"])
def test_a_request_with_nan_is_bad_alone_and_stays_bad(sample: bool) -> None:
    runner = toy_runner()
    poisoned = [1, POISON, 2] if sample else [1, POISON, 2, 4, 5]
    plan = StepPlan(
        1, [], [admit(0), admit(1, poisoned)], [Chunk(0, 0, 10, [0, 1, 2], True), Chunk(1, 0, 3, [3, 4], sample)]
    )
    first = runner.run(plan)
    # The engine has not heard yet: it plans the token that was never sampled.
    second = runner.run(StepPlan(2, [], [], [Chunk(1, 3, 1, [], sample), Chunk(0, 10, 1, [], True)]))
    assert first.bad_slots == second.bad_slots == [1]
    assert [token.slot for token in first.sampled + second.sampled] == [0, 0]
    assert [token.token_id for token in first.sampled + second.sampled] == greedy_tokens(PROMPT, 2)
    third = runner.run(StepPlan(3, [1], [admit(1, [4, 5])], [Chunk(1, 0, 2, [3], True)]))
    assert [token.token_id for token in third.sampled] == greedy_tokens([4, 5], 1)


def test_a_step_launched_ahead_takes_the_token_that_only_the_device_knows() -> None:
    runner = toy_runner()
    steps = [runner.launch(StepPlan(1, [], [admit(2)], [Chunk(2, 0, 10, [7, 3, 11], True)]))]
    for number in range(2, 8):
        steps.append(
            runner.launch(StepPlan(number, [], [], [Chunk(2, 8 + number, 1, [12] if number == 4 else [], True)]))
        )
        steps[-2].result()
    tokens = [step.result().sampled[0].token_id for step in steps]
    assert tokens == greedy_tokens(PROMPT, 7)
    assert steps[0].result() is steps[0].result()


def test_penalties_of_a_step_launched_ahead_count_every_token() -> None:
    sampling = SamplingParams(temperature=0.0, presence_penalty=2.0, frequency_penalty=1.5, max_tokens=None)

    def tokens(*, ahead: bool) -> list[int]:
        runner, found, before = toy_runner(), [], None
        for number in range(1, 9):
            admissions = [admit(0, PROMPT, sampling)] if number == 1 else []
            chunk = Chunk(0, 0, 10, [1, 2, 3, 4, 5], True) if number == 1 else Chunk(0, 8 + number, 1, [], True)
            step = runner.launch(StepPlan(number, [], admissions, [chunk]))
            found.append(step)
            (before or step).result() if ahead else step.result()
            before = step
        return [step.result().sampled[0].token_id for step in found]

    assert tokens(ahead=True) == tokens(ahead=False) != greedy_tokens(PROMPT, 8)


@pytest.mark.parametrize("sampling", [GREEDY, GREEDY.replace(presence_penalty=1.0)], ids=["plain", "penalised"])
def test_a_bad_request_of_a_step_launched_ahead_stays_bad(sampling: SamplingParams) -> None:
    """And the next request in its slot, admitted before its last result is read, does not take its place."""
    runner = toy_runner()
    chunks = [Chunk(0, 0, 10, [0, 1, 2], True), Chunk(1, 0, 3, [3, 4], True)]
    first = runner.launch(StepPlan(1, [], [admit(0), admit(1, [1, POISON, 2], sampling)], chunks))
    second = runner.launch(StepPlan(2, [], [], [Chunk(1, 3, 1, [], True), Chunk(0, 10, 1, [], True)]))
    assert first.result().bad_slots == [1]
    third = runner.launch(StepPlan(3, [1], [admit(1, [4, 5])], [Chunk(1, 0, 2, [3], True), Chunk(0, 11, 1, [], True)]))
    assert second.result().bad_slots == [1]
    assert third.result().bad_slots == []
    assert [t.token_id for t in third.result().sampled if t.slot == 1] == greedy_tokens([4, 5], 1)
    mine = [t.token_id for step in (first, second, third) for t in step.result().sampled if t.slot == 0]
    assert mine == greedy_tokens(PROMPT, 3)


class Overflowing(ToyModel):
    """Finite hidden states, infinite logits in row 0."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = super().logits(hidden)
        logits[0, 7] = float("inf")
        return logits


def test_logits_that_are_not_finite_make_a_slot_bad() -> None:
    config = toy_config()
    runner = Runner(Overflowing(), toy_cache(config), config, vocab_size=VOCAB)
    chunks = [Chunk(0, 0, 10, [0, 1, 2], True), Chunk(1, 0, 10, [3, 4, 5], True)]
    result = runner.run(StepPlan(1, [], [admit(0), admit(1)], chunks))
    assert result.bad_slots == [0]
    assert [(token.slot, token.token_id) for token in result.sampled] == [(1, greedy_tokens(PROMPT, 1)[0])]


def test_a_vocabulary_beyond_the_sampler_is_refused() -> None:
    config = toy_config()
    with pytest.raises(Exception, match="1048576"):
        Runner(ToyModel(), toy_cache(config), config, vocab_size=2**20 + 1)

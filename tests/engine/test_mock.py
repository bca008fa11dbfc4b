"""The mock worker refuses every plan that a strict worker would; otherwise no test that uses it means anything."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from engine.harness import config
from octavo.messages import Admission, Chunk, StepPlan
from octavo.sampling import SamplingParams
from octavo.testing.mock_model import digest, mock_token
from octavo.testing.mock_worker import MockWorker

LIMITS = config(block_size=2, num_blocks=8, max_num_seqs=2, max_model_len=16, max_num_batched_tokens=8)
GREEDY = SamplingParams(temperature=0.0)
replace = msgspec.structs.replace


def admission(slot: int, *tokens: int) -> Admission:
    return Admission(slot, list(tokens), len(tokens), GREEDY, [96])


FIRST = StepPlan(1, [], [admission(0, 1, 2, 3, 4)], [Chunk(0, 0, 4, [0, 1], True)])
SECOND = StepPlan(2, [], [admission(1, 1, 2, 7)], [Chunk(0, 4, 1, [3], True), Chunk(1, 2, 1, [0, 2], True)])


def test_good_plans_run() -> None:
    worker = MockWorker(LIMITS)
    worker.send(FIRST)
    worker.send(SECOND)
    assert [len(result.sampled) for result in (worker.receive(0), worker.receive(0)) if result] == [1, 2]
    assert worker.receive(0) is None


BROKEN: dict[str, tuple[Callable[[StepPlan], StepPlan], str]] = {
    "step-out-of-order": (lambda plan: replace(plan, step=3), "plan 3 after 1"),
    "slot-taken": (lambda plan: replace(plan, admissions=[admission(0, 1)]), "slot 0 is taken"),
    "slot-past-the-last": (lambda plan: replace(plan, admissions=[admission(2, 1)]), "slot 2"),
    "nothing-to-do": (lambda plan: replace(plan, chunks=[]), "a step of nothing"),
    "two-chunks": (lambda plan: replace(plan, chunks=[plan.chunks[0]] * 2), "two chunks"),
    "gap": (lambda plan: with_chunk(plan, 0, start=5), "start 5"),
    "repeat": (lambda plan: with_chunk(plan, 0, start=3), "start 3"),
    "empty-chunk": (lambda plan: with_chunk(plan, 0, count=0), "count 0"),
    "past-the-history": (lambda plan: with_chunk(plan, 0, count=2), "do not fit"),
    "past-the-blocks": (lambda plan: with_chunk(plan, 1, new_blocks=[0]), "do not fit"),
    "no-sample-at-the-end": (lambda plan: with_chunk(plan, 0, sample=False), "sampling belongs"),
    "block-past-the-pool": (lambda plan: with_chunk(plan, 1, new_blocks=[0, 8]), "block 8"),
    "negative-block": (lambda plan: with_chunk(plan, 1, new_blocks=[0, -1]), "block -1"),
    "block-twice": (lambda plan: with_chunk(plan, 1, new_blocks=[0, 0]), "a block twice"),
    "shared-write": (lambda plan: with_chunk(plan, 1, new_blocks=[0, 1]), "writes to a shared block"),
    "foreign-prefix": (lambda plan: with_chunk(plan, 1, new_blocks=[1, 2]), "of other tokens"),
    "never-written-prefix": (lambda plan: with_chunk(plan, 1, new_blocks=[5, 2]), "of other tokens"),
}


def with_chunk(plan: StepPlan, index: int, **changes: object) -> StepPlan:
    chunks = list(plan.chunks)
    chunks[index] = replace(chunks[index], **changes)
    return replace(plan, chunks=chunks)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_plans_are_caught(name: str) -> None:
    breaking, words = BROKEN[name]
    worker = MockWorker(LIMITS)
    worker.send(FIRST)
    with pytest.raises(AssertionError, match=words):
        worker.send(breaking(SECOND))


def test_equal_tokens_at_other_positions_are_caught() -> None:
    worker = MockWorker(LIMITS)
    worker.send(StepPlan(1, [], [admission(0, 5, 5, 5, 5)], [Chunk(0, 0, 4, [0, 1], True)]))
    with pytest.raises(AssertionError, match="of other positions"):
        worker.send(StepPlan(2, [], [admission(1, 5, 5, 7)], [Chunk(1, 2, 1, [1, 2], True)]))


def test_the_budget_is_checked() -> None:
    with pytest.raises(AssertionError):
        MockWorker(LIMITS).send(StepPlan(1, [], [admission(0, *range(9))], [Chunk(0, 0, 9, [0, 1, 2, 3, 4], True)]))


def test_the_token_depends_on_history_seed_and_position() -> None:
    sampling = SamplingParams(seed=1)

    def token(history: list[int], position: int, seed: int) -> int:
        return mock_token(digest(history), position, 0, sampling.replace(seed=seed), [], 1 << 30).token_id

    base = token([1, 2, 3], 3, 1)
    assert base == token([1, 2, 3], 3, 1)
    assert len({base, token([1, 3, 2], 3, 1), token([1, 2, 3], 4, 1), token([1, 2, 3], 3, 2)}) == 4
    assert digest([1, 2, 3]) == digest([3], digest([1, 2]))


def test_stop_ids_are_masked_until_min_tokens() -> None:
    sampling = SamplingParams(temperature=0.0, min_tokens=2)
    free = mock_token(5, 1, 2, sampling, [], 7).token_id
    assert mock_token(5, 1, 2, sampling, [free], 7).token_id == free
    assert mock_token(5, 1, 1, sampling, [free], 7).token_id == (free + 1) % 7

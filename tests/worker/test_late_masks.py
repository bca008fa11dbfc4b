"""The runner under grammars: a row that is sampled steps after it was computed gets the bits that it would have had."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.messages import Admission, Chunk, SampledToken, StepMasks, StepPlan
from octavo.sampling import SamplingParams
from octavo.worker.runner import Runner
from worker.toy import POISON, VOCAB, ToyModel, toy_cache, toy_config, toy_runner

SAMPLING = SamplingParams(seed=3, max_tokens=None, logprobs=2, presence_penalty=0.5)
PROMPT = [3, 14, 15, 9, 26, 5]
MASKS = [sum(1 << id_ for id_ in range(first, VOCAB, 3)).to_bytes(8, "little") for first in range(3)]
"""By the position modulo 3."""
CONSTRAINED, FREE = 1, 2
MADE = 6
BLOCKS = list(range(20, 29))
"""Of the free slot, which goes on while the other waits."""


def admit(slot: int, prompt: list[int] = PROMPT) -> Admission:
    return Admission(slot, prompt, len(prompt), SAMPLING, [])


def told(step: int, position: int | None) -> StepMasks:
    if position is None:
        return StepMasks(step, [], [], [])
    return StepMasks(step, [CONSTRAINED], [0], [MASKS[position % 3]])


def answers(
    runner: Runner, late: list[int], *, ahead: bool, drafted: bool = False
) -> tuple[list[SampledToken], list[SampledToken]]:
    """Tokens of the constrained slot, the n-th of which is told late[n] steps after it could be, and of a free slot beside it.

    With `ahead` a step is launched before the result of the one before is read, and sampled after; with `drafted` its logits are
    computed before its masks are there.
    """
    position, left, steps, launched = len(PROMPT), late[0], 0, []
    made: dict[int, list[SampledToken]] = {CONSTRAINED: [], FREE: []}
    computed = 0
    while position < len(PROMPT) + MADE:
        steps += 1
        start = 0 if steps == 1 else len(PROMPT) + steps - 2
        count = len(PROMPT) if steps == 1 else 1
        chunks = [Chunk(FREE, start, count, BLOCKS if steps == 1 else [], True)]
        if computed < position:
            chunks.append(Chunk(CONSTRAINED, computed, position - computed, [1, 2, 3, 4] if steps == 1 else [], True))
            computed = position
        admissions = [admit(CONSTRAINED), admit(FREE, PROMPT[::-1])] if steps == 1 else []
        launched.append(runner.launch(StepPlan(steps, [], admissions, chunks, constrained=[CONSTRAINED])))
        assert not launched[-1].done
        if ahead and steps > 1:
            collect(made, launched.pop(0).result().sampled)
        if drafted:
            runner.draft()
        runner.sample(told(steps, None if left else position))
        if not ahead:
            collect(made, launched.pop().result().sampled)
        if left:
            left -= 1
        else:
            position += 1
            left = late[(position - len(PROMPT)) % len(late)]
    for step in launched:
        collect(made, step.result().sampled)
    return made[CONSTRAINED], made[FREE]


def collect(made: dict[int, list[SampledToken]], sampled: list[SampledToken]) -> None:
    for token in sampled:
        made[token.slot].append(token)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=MADE), st.booleans(), st.booleans())
def test_a_late_mask_changes_no_bit_of_anybody(late: list[int], ahead: bool, drafted: bool) -> None:
    expected, free = answers(toy_runner(), [0], ahead=False)
    got, beside = answers(toy_runner(), late, ahead=ahead, drafted=drafted)
    assert len(expected) == MADE
    assert got == expected
    assert [token.token_id % 3 for token in got] == [
        position % 3 for position in range(len(PROMPT), len(PROMPT) + MADE)
    ]
    assert beside[: len(free)] == free


def test_the_comparison_sees_another_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: what is kept is the row beside it."""
    expected, _ = answers(toy_runner(), [0], ahead=False)
    monkeypatch.setattr(torch.Tensor, "clone", lambda row: torch.roll(row, 1))
    assert answers(toy_runner(), [1], ahead=False)[0] != expected


def test_the_comparison_sees_a_draft_of_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: what is drafted ahead is of the rows in another order."""
    expected, _ = answers(toy_runner(), [0], ahead=True)
    assert answers(toy_runner(), [0], ahead=True, drafted=True)[0] == expected
    draft = Runner.draft

    def turned(runner: Runner) -> None:
        rows = runner._launched[-1].rows
        runner._launched[-1].rows = [*reversed(rows)]
        draft(runner)
        runner._launched[-1].rows = rows

    monkeypatch.setattr(Runner, "draft", turned)
    assert answers(toy_runner(), [0], ahead=True, drafted=True)[0] != expected


class Counting(ToyModel):
    """Counts for how many rows logits were computed."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(hidden))
        return super().logits(hidden)


def test_logits_are_computed_while_masks_are_waited_for() -> None:
    """All of them at once; if a mask is late, those of the others again, and its own when it is there."""
    model, config = Counting(), toy_config()
    runner = Runner(model, toy_cache(config), config, vocab_size=VOCAB)
    slots = [CONSTRAINED, FREE]

    def plan(step: int, constrained: list[int]) -> StepPlan:
        first = step == 1
        chunks = [
            Chunk(
                slot,
                0 if first else 4 + step,
                6 if first else 1,
                [4 * slot + i for i in range(4)] if first else [],
                True,
            )
            for slot in slots
            if first or slot in constrained
        ]
        return StepPlan(step, [], [admit(slot) for slot in slots] if first else [], chunks, constrained=constrained)

    step = runner.launch(plan(1, slots))
    assert model.rows == []
    runner.draft()
    runner.draft()
    assert model.rows == [2]
    runner.sample(StepMasks(1, slots, [0, 1], MASKS))
    assert model.rows == [2]
    assert [token.token_id % 3 for token in step.result().sampled] == [0, 1]
    step = runner.launch(plan(2, slots))
    runner.draft()
    runner.sample(StepMasks(2, [FREE], [0], MASKS))
    assert model.rows == [2, 2, 1]
    assert [token.slot for token in step.result().sampled] == [FREE]
    step = runner.launch(StepPlan(3, [], [], [], constrained=[CONSTRAINED]))
    runner.draft()
    runner.sample(StepMasks(3, [CONSTRAINED], [0], MASKS))
    assert model.rows == [2, 2, 1, 1]
    assert [token.slot for token in step.result().sampled] == [CONSTRAINED]


def test_a_step_without_chunks_samples_what_waits() -> None:
    on_time, late = toy_runner(), toy_runner()
    plan = StepPlan(1, [], [admit(1)], [Chunk(1, 0, 6, [1, 2], True)], constrained=[1])
    launched = on_time.launch(plan)
    on_time.sample(told(1, 6))
    step = late.launch(plan)
    late.sample(told(1, None))
    assert step.result().sampled == []
    step = late.launch(StepPlan(2, [], [], [], constrained=[1]))
    late.sample(told(2, 6))
    assert step.result().sampled == launched.result().sampled


def test_what_is_kept_goes_with_its_slot() -> None:
    runner = toy_runner()
    runner.launch(StepPlan(1, [], [admit(1)], [Chunk(1, 0, 6, [1, 2], True)], constrained=[1]))
    runner.sample(told(1, None))
    assert list(runner._kept) == [1]
    runner.launch(StepPlan(2, [1], [], []))
    assert not runner._kept


def test_a_late_row_that_is_not_finite_fails_in_the_step_that_computed_it() -> None:
    runner = toy_runner()
    step = runner.launch(StepPlan(1, [], [admit(1, [1, POISON])], [Chunk(1, 0, 2, [1], True)], constrained=[1]))
    runner.sample(told(1, None))
    later = runner.launch(StepPlan(2, [], [], [], constrained=[1]))
    runner.sample(told(2, 2))
    assert step.result().bad_slots == [1]
    assert (later.result().sampled, later.result().bad_slots) == ([], [1])

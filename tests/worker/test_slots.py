"""Every way a plan can break the contract is refused by name before it reaches a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from octavo.messages import Admission, Chunk, SnapshotUse, StepMasks, StepPlan
from octavo.sampling import SamplingParams
from octavo.worker.batch import make_batch
from octavo.worker.slots import PlanError, Slots
from worker.toy import VOCAB, toy_config

GREEDY = SamplingParams(temperature=0)


def admit(slot: int = 0, token_ids: Sequence[int] = range(10), **changes: Any) -> Admission:
    fields: dict[str, Any] = {
        "slot": slot,
        "token_ids": list(token_ids),
        "num_prompt_tokens": len(token_ids),
        "sampling": GREEDY,
        "stop_token_ids": [],
    }
    return Admission(**fields | changes)


def chunk(
    slot: int = 0, start: int = 0, count: int = 4, new_blocks: Sequence[int] = (0,), sample: bool = False
) -> Chunk:
    return Chunk(slot, start, count, list(new_blocks), sample)


def running_slots() -> Slots:
    """Slot 1 has computed 4 of its 10 tokens in block 20."""
    slots = Slots(toy_config(num_snapshots=3), num_blocks=30, vocab_size=VOCAB)
    slots.apply(StepPlan(1, [], [admit(1)], [chunk(1, 0, 4, [20])]))
    return slots


ALLOWED = b"\x01" + bytes(7)
"""Id 0."""

CHUNKS = [chunk(1, 4, 2, [2]), chunk(0, 0, 2, [3]), chunk(2, 4, 2, [4, 5])]
"""Of slots in the midst, at the beginning, and behind a cached prefix."""
BEHIND = SnapshotUse(2, restore=2)

BROKEN = {
    "step skipped": (StepPlan(3, [], [], []), "step 3: step must be 2"),
    "step again": (StepPlan(1, [], [], []), "step 1: step must be 2"),
    "release out of range": (StepPlan(2, [4], [], []), "step 2: releases: slot 4 is not in 0..3"),
    "release below range": (StepPlan(2, [-1], [], []), "step 2: releases: slot -1 is not in 0..3"),
    "release of a free slot": (StepPlan(2, [0], [], []), "step 2: releases: slot 0 is free"),
    "release twice": (StepPlan(2, [1, 1], [], []), "step 2: releases: slot 1 is free"),
    "admission out of range": (StepPlan(2, [], [admit(4)], []), "admissions: slot 4 is not in 0..3"),
    "admission of a taken slot": (StepPlan(2, [], [admit(1)], []), "admissions: slot 1 is taken"),
    "no tokens": (StepPlan(2, [], [admit(0, [])], []), "admission of slot 0: token_ids has 0 ids, must have 1..40"),
    "too many tokens": (StepPlan(2, [], [admit(0, [1] * 41)], []), "token_ids has 41 ids, must have 1..40"),
    "no prompt": (StepPlan(2, [], [admit(num_prompt_tokens=0)], []), "num_prompt_tokens is 0, must be in 1..10"),
    "prompt beyond history": (StepPlan(2, [], [admit(num_prompt_tokens=11)], []), "is 11, must be in 1..10"),
    "token beyond vocabulary": (StepPlan(2, [], [admit(0, [1, 61])], []), "token_ids: id 61 is not in 0..60"),
    "token below vocabulary": (StepPlan(2, [], [admit(0, [1, -1])], []), "token_ids: id -1 is not in 0..60"),
    "stop id beyond vocabulary": (StepPlan(2, [], [admit(stop_token_ids=[99])], []), "stop_token_ids: id 99"),
    "bias beyond vocabulary": (
        StepPlan(2, [], [admit(sampling=GREEDY.replace(logit_bias={-5: 1.0}))], []),
        "logit_bias: id -5 is not in 0..60",
    ),
    "allowed id beyond vocabulary": (
        StepPlan(2, [], [admit(sampling=GREEDY.replace(allowed_token_ids=[3, 61]))], []),
        "allowed_token_ids: id 61",
    ),
    "scored id beyond vocabulary": (
        StepPlan(2, [], [admit(sampling=GREEDY.replace(logprob_token_ids=[99]))], []),
        "logprob_token_ids: id 99",
    ),
    "forbidden id below vocabulary": (
        StepPlan(2, [], [admit(sampling=GREEDY.replace(bad_word_ids=[[1], [2, -1]]))], []),
        "bad_word_ids: id -1",
    ),
    "random without seed": (StepPlan(2, [], [admit(sampling=SamplingParams())], []), "admission of slot 0: seed"),
    "chunk out of range": (StepPlan(2, [], [], [chunk(9)]), "chunk: slot 9 is not in 0..3"),
    "chunk of a free slot": (StepPlan(2, [], [], [chunk(0)]), "chunk: slot 0 is free"),
    "two chunks": (StepPlan(2, [], [], [chunk(1, 4, 1, [2]), chunk(1, 5, 1, [])]), "slot 1 has two chunks"),
    "hole": (StepPlan(2, [], [], [chunk(1, 5, 1, [2])]), "chunk of slot 1: start is 5, must be 4"),
    "computed again": (StepPlan(2, [], [], [chunk(1, 0, 4, [])]), "chunk of slot 1: start is 0, must be 4"),
    "negative start": (StepPlan(2, [], [admit(0)], [chunk(0, -1, 2)]), "chunk of slot 0: start is -1, must be 0"),
    "nothing to compute": (StepPlan(2, [], [], [chunk(1, 4, 0)]), "count is 0, must be at least 1"),
    "too few blocks": (StepPlan(2, [], [], [chunk(1, 4, 5, [2])]), "it ends at 9, but its 2 blocks hold 8 tokens"),
    "block beyond pool": (StepPlan(2, [], [], [chunk(1, 4, 1, [30])]), "new_blocks: block 30 is not in 0..29"),
    "block below pool": (StepPlan(2, [], [], [chunk(1, 4, 1, [-1])]), "new_blocks: block -1 is not in 0..29"),
    "block twice": (StepPlan(2, [], [], [chunk(1, 4, 1, [20])]), "new_blocks: block 20 is there already"),
    "too many blocks": (StepPlan(2, [], [], [chunk(1, 4, 1, range(11))]), "more than the 10 blocks of max_model_len"),
    "beyond history": (StepPlan(2, [], [], [chunk(1, 4, 7, [1, 2])]), "it ends at 11, but the history has 10 tokens"),
    "sample before the end": (
        StepPlan(2, [], [], [chunk(1, 4, 4, [1], True)]),
        "chunk of slot 1: sample is set at 8 of 10 tokens",
    ),
    "beyond model": (StepPlan(2, [], [admit(0, [1] * 40)], [chunk(0, 39, 2, range(10))]), "but max_model_len is 40"),
    "beyond budget": (
        StepPlan(
            2,
            [],
            [admit(0, [1] * 40), admit(2, [1] * 40)],
            [chunk(0, 0, 40, range(10)), chunk(2, 0, 25, range(10, 17))],
        ),
        "chunks: 65 tokens, but max_num_batched_tokens is 64",
    ),
    "constrained and samples nothing": (
        StepPlan(2, [], [], [chunk(1, 4, 1, [2])], constrained=[1]),
        "constrained slot 1: it samples nothing",
    ),
    "constrained and free": (
        StepPlan(2, [], [], [chunk(1, 4, 6, [2, 3], True)], constrained=[1, 3]),
        "constrained: slot 3 is free",
    ),
    "constrained and out of range": (StepPlan(2, [], [], [], constrained=[-1]), "constrained: slot -1 is not in 0..3"),
    "constrained twice": (
        StepPlan(2, [], [], [chunk(1, 4, 6, [2, 3], True)], constrained=[1, 1]),
        "constrained: a slot is named twice",
    ),
    **{
        f"snapshots: {name}": (StepPlan(2, [], [admit(0), admit(2)], CHUNKS, snapshots=uses), message)
        for name, (uses, message) in {
            "without a chunk": ([SnapshotUse(3, keep=0, keep_after=1)], "slot 3: it has no chunk"),
            "twice": ([BEHIND, SnapshotUse(1, keep=0, keep_after=1), SnapshotUse(1)], "slot 1: it has no chunk, or"),
            "beyond those there are": ([BEHIND, SnapshotUse(1, keep=3, keep_after=1)], "3 is not in -1..2"),
            "below": ([BEHIND, SnapshotUse(1, keep=-2, keep_after=1)], "-2 is not in -1..2"),
            "behind no token": ([BEHIND, SnapshotUse(1, keep=0)], "not behind a token"),
            "behind the chunk": ([BEHIND, SnapshotUse(1, keep=0, keep_after=3)], "not behind a token"),
            "of two chunks": (
                [BEHIND, SnapshotUse(1, keep=0, keep_after=1), SnapshotUse(0, keep=0, keep_after=1)],
                "0 is kept twice",
            ),
            "restored later on": ([BEHIND, SnapshotUse(1, restore=1)], "slot 1: restore is 1"),
            "restored at the beginning": ([BEHIND, SnapshotUse(0, restore=1)], "slot 0: restore is 1"),
            "missing behind a prefix": ([], "slot 2 has no state"),
            "not restored behind a prefix": ([SnapshotUse(2, keep=0, keep_after=1)], "slot 2: restore is -1"),
            "kept where another goes on": ([BEHIND, SnapshotUse(1, keep=2, keep_after=1)], "one is kept in the step"),
        }.items()
    },
    "block of two writers": (
        StepPlan(2, [], [admit(0), admit(2)], [chunk(0, 0, 4, [3]), chunk(2, 0, 4, [3])]),
        "chunk of slot 2: block 3 is written by two chunks",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plan_is_refused_by_name(name: str) -> None:
    plan, message = BROKEN[name]
    with pytest.raises(PlanError) as error:
        running_slots().apply(plan)
    assert message in error.value.message
    assert error.value.message.startswith(f"step {plan.step}: ")


def test_states_of_a_batch_are_slots_and_behind_them_snapshots() -> None:
    slots = running_slots()
    uses = [BEHIND, SnapshotUse(1, keep=0, keep_after=1)]
    chunks = slots.apply(StepPlan(2, [], [admit(0), admit(2)], CHUNKS, snapshots=uses))
    batch = make_batch(chunks, slots, block_size=4)
    assert batch.states == ((1, 1, 4, 1), (-1, 0, -1, 0), (6, 2, -1, 0))
    chunks = slots.apply(StepPlan(3, [], [], [chunk(2, 6, 1, [])]))
    assert make_batch(chunks, slots, block_size=4).states == ((2, 2, -1, 0),)


def test_a_block_that_two_requests_read_may_be_shared() -> None:
    slots = Slots(toy_config(), num_blocks=30, vocab_size=VOCAB)
    chunks = [chunk(0, 4, 4, [3, 4]), chunk(2, 4, 4, [3, 5])]
    assert slots.apply(StepPlan(1, [], [admit(0), admit(2)], chunks)) == chunks


def test_a_slot_is_released_and_taken_again_in_one_plan() -> None:
    slots = running_slots()
    slots.apply(StepPlan(2, [1], [admit(1, [7, 8])], [chunk(1, 0, 2, [9], True)]))
    assert slots[1].tokens == [7, 8]
    assert slots.tables[1].tolist() == [9] + [-1] * 9


def test_stop_ids_are_masked_until_min_tokens_are_made() -> None:
    slots = Slots(toy_config(), num_blocks=30, vocab_size=VOCAB)
    sampling = GREEDY.replace(min_tokens=3)
    admission = admit(0, [1, 2, 3, 4], num_prompt_tokens=3, sampling=sampling, stop_token_ids=[5, 6])
    slots.apply(StepPlan(1, [], [admission], []))
    masked = []
    for token_id in (7, 8, 9):
        masked.append(list(slots[0].masked_ids))
        slots[0].resolve_token(slots[0].reserve_token(), token_id)
    assert masked == [[5, 6], [5, 6], []]


def test_an_id_that_would_complete_a_forbidden_word_is_masked() -> None:
    slots = Slots(toy_config(), num_blocks=30, vocab_size=VOCAB)
    sampling = GREEDY.replace(bad_word_ids=[[9], [7, 8], [3, 7, 2]])
    slots.apply(StepPlan(1, [], [admit(0, [1, 2, 3], num_prompt_tokens=3, sampling=sampling)], []))
    masked = []
    for token_id in (7, 3, 7, 5):
        masked.append(list(slots[0].masked_ids))
        slots[0].resolve_token(slots[0].reserve_token(), token_id)
    assert masked == [[9], [9, 8], [9], [9, 8, 2]], "the 3 of the prompt is no part of an answer"
    assert slots[0].needs_history


def test_what_a_request_allows_is_bits() -> None:
    slots = Slots(toy_config(), num_blocks=30, vocab_size=VOCAB)
    slots.apply(StepPlan(1, [], [admit(0, sampling=GREEDY.replace(allowed_token_ids=[0, 9, 60]))], []))
    assert slots[0].permitted == bytes([1, 2, 0, 0, 0, 0, 0, 16])


def test_only_requests_with_a_penalty_are_counted() -> None:
    slots = Slots(toy_config(), num_blocks=30, vocab_size=VOCAB)
    sampling = [GREEDY.replace(presence_penalty=1.0), GREEDY.replace(repetition_penalty=0.9), GREEDY]
    slots.apply(StepPlan(1, [], [admit(i, sampling=each) for i, each in enumerate(sampling)], []))
    assert [slots[i].is_penalised for i in range(3)] == [True, True, False]


def test_a_batch_is_the_plan_as_tensors() -> None:
    slots = Slots(toy_config(), num_blocks=30, vocab_size=VOCAB)
    chunks = [chunk(2, 4, 5, [9, 3, 7]), chunk(0, 0, 1, [29])]
    admissions = [admit(2, range(20, 30)), admit(0, [60])]
    batch = make_batch(slots.apply(StepPlan(1, [], admissions, chunks)), slots, block_size=4)
    assert batch.token_ids.tolist() == [24, 25, 26, 27, 28, 60]
    assert batch.positions.tolist() == [4, 5, 6, 7, 8, 0]
    assert batch.slot_mapping.tolist() == [12, 13, 14, 15, 28, 116]
    assert batch.block_tables.tolist() == [[9, 3, 7] + [-1] * 7, [29] + [-1] * 9]
    assert (batch.chunk_starts, batch.context_lens) == ((0, 5, 6), (9, 1))
    dtypes = [batch.token_ids.dtype, batch.positions.dtype, batch.slot_mapping.dtype, batch.block_tables.dtype]
    assert dtypes == [torch.int64, torch.int64, torch.int64, torch.int32]


def test_slot_mapping_is_64_bit_arithmetic() -> None:
    config = toy_config(block_size=2**20, max_model_len=2**21)
    slots = Slots(config, num_blocks=2**12, vocab_size=VOCAB)
    plan = StepPlan(1, [], [admit(0, [1])], [chunk(0, 0, 1, [4095])])
    batch = make_batch(slots.apply(plan), slots, block_size=2**20)
    assert batch.slot_mapping.tolist() == [4095 * 2**20]


def test_a_batch_holds_no_view_of_the_tables() -> None:
    slots = running_slots()
    batch = make_batch(slots.apply(StepPlan(2, [], [], [chunk(1, 4, 1, [2])])), slots, block_size=4)
    slots.tables[:] = np.int32(-7)
    assert batch.block_tables[0, :3].tolist() == [20, 2, -1]


def constrained_slots() -> Slots:
    """Slot 1 with its whole history computed in step 2, in which it waits for its mask."""
    slots = running_slots()
    slots.apply(StepPlan(2, [], [], [chunk(1, 4, 6, [2, 3], True)], constrained=[1]))
    return slots


def test_a_slot_that_is_not_told_waits_until_it_is() -> None:
    slots = constrained_slots()
    assert slots.allow(StepMasks(2, [], [], [])) == {}
    slots.apply(StepPlan(3, [], [], [], constrained=[1]))
    other = b"\x02" + bytes(7)
    assert slots.allow(StepMasks(3, [1], [1], [other, ALLOWED])) == {1: ALLOWED}
    slots[1].resolve_token(slots[1].reserve_token(), 0)
    slots.apply(StepPlan(4, [], [], [chunk(1, 10, 1, [], True)]))
    with pytest.raises(PlanError):
        slots.allow(StepMasks(4, [], [], []))


def test_a_slot_that_waits_computes_nothing() -> None:
    slots = constrained_slots()
    slots.allow(StepMasks(2, [], [], []))
    with pytest.raises(PlanError, match="the history has 10 tokens"):
        slots.apply(StepPlan(3, [], [], [chunk(1, 10, 1, [], True)]))


def test_no_plan_comes_before_the_masks_of_the_one_before() -> None:
    with pytest.raises(PlanError, match="step 2 has had no masks"):
        constrained_slots().apply(StepPlan(3, [], [], [chunk(1, 10, 1, [], True)]))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (StepMasks(1, [], [], []), "masks are not due"),
        (StepMasks(2, [0], [0], [ALLOWED]), "slot 0: it is not constrained"),
        (StepMasks(2, [1, 1], [0, 0], [ALLOWED]), "slot 1: it is not constrained, or told twice"),
        (StepMasks(2, [1], [], [ALLOWED]), "rows: 0, must be 1"),
        (StepMasks(2, [1], [1], [ALLOWED]), "row 1 is not in 0..0"),
        (StepMasks(2, [1], [-1], [ALLOWED]), "row -1 is not in 0..0"),
        (StepMasks(2, [1], [0], [ALLOWED[1:]]), "mask 0: 7 bytes, must be 8"),
        (StepMasks(2, [1], [0], [bytes(8)]), "mask 0: no id"),
        (StepMasks(2, [1], [0], [bytes(7) + b"\x20"]), "or ids beyond the vocabulary"),
    ],
)
def test_masks_that_break_the_contract_are_refused(masks: StepMasks, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        constrained_slots().allow(masks)

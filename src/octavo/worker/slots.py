"""The worker's memory of the running requests: one slot each, a cache that any `Admission` rebuilds.

Every plan is checked here in full before one of its numbers becomes an index on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from octavo.bad_words import BadWords
from octavo.errors import OctavoError
from octavo.messages import Admission, Chunk, SnapshotUse, StepMasks, StepPlan, WorkerConfig
from octavo.sampling import SamplingParams

UNKNOWN = -1
"""In a history: a token that a step has sampled and whose result is not on the host yet. When a step begins, only the last
can be."""


class PlanError(OctavoError):
    """A step plan breaks the contract of `messages.py`: a bug in the engine. Names step, slot and field."""


class Slot:
    """One running request."""

    __slots__ = (
        "bad",
        "bad_words",
        "computed",
        "is_penalised",
        "needs_history",
        "num_blocks",
        "num_prompt_tokens",
        "permitted",
        "sampling",
        "snapshots",
        "stop_ids",
        "tokens",
        "waits",
    )

    def __init__(self, admission: Admission, vocab_size: int) -> None:
        self.tokens = list(admission.token_ids)
        """The whole history: prompt, then made tokens; the last may be UNKNOWN."""
        self.num_prompt_tokens = admission.num_prompt_tokens
        self.sampling: SamplingParams = admission.sampling
        self.stop_ids = list(admission.stop_token_ids)
        self.computed: int | None = None
        """Positions with keys and values; None before the first chunk, which may start behind a cached prefix."""
        self.num_blocks = 0
        """Filled columns of the block table row."""
        self.bad = False
        """Numbers were not finite: nothing is computed for this slot again until it is released."""
        self.waits = False
        """All of its history is computed, and its next token is not sampled until it is told of which ids it may be."""
        ids = self.sampling.allowed_token_ids
        self.permitted = None if ids is None else _as_bits(ids, vocab_size)
        """Ids that may be sampled in any step, as `StepMasks.masks`; None: all."""
        self.bad_words = BadWords(self.sampling.bad_word_ids)
        self.needs_history = self.bad_words.need_history
        """What may be sampled depends on every token made, so that the host must know them all."""
        sampling = self.sampling
        self.is_penalised = bool(
            sampling.presence_penalty or sampling.frequency_penalty or sampling.repetition_penalty != 1.0
        )
        """The counts of its tokens matter."""
        self.snapshots: SnapshotUse | None = None
        """What the chunk of the step does with snapshots; None: nothing."""

    def reserve_token(self) -> int:
        """Make room for a token that has been sampled; its position."""
        self.tokens.append(UNKNOWN)
        return len(self.tokens) - 1

    def resolve_token(self, position: int, token_id: int) -> None:
        """Take in the token of a position that was expected."""
        assert self.tokens[position] == UNKNOWN
        self.tokens[position] = token_id

    @property
    def masked_ids(self) -> Sequence[int]:
        """Ids that may not be sampled next: what would end the request before min_tokens are made, or complete a forbidden
        word."""
        made = len(self.tokens) - self.num_prompt_tokens
        forbidden = self.bad_words.completing(self.tokens, self.num_prompt_tokens)
        return [*self.stop_ids, *forbidden] if made < self.sampling.min_tokens else forbidden


class Slots:
    """All slots and their block tables.

    Args:
        config: limits; `max_num_seqs` slots.
        num_blocks: KV blocks in the pool.
        vocab_size: ids are below it.
    """

    def __init__(self, config: WorkerConfig, *, num_blocks: int, vocab_size: int) -> None:
        self._config = config
        self._num_blocks = num_blocks
        self._vocab_size = vocab_size
        self._slots: list[Slot | None] = [None] * config.max_num_seqs
        self._step = 0
        self._constrained: set[int] | None = None
        """Slots of the step whose masks are due; None: it has had them, or needs none."""
        width = -(-config.max_model_len // config.block_size)
        self.tables: npt.NDArray[np.int32] = np.full((config.max_num_seqs, width), -1, dtype=np.int32)
        """(max_num_seqs, W) block ids; -1 past a request's last block."""

    def __getitem__(self, index: int) -> Slot:
        slot = self._slots[index]
        assert slot is not None
        return slot

    def apply(self, plan: StepPlan) -> list[Chunk]:
        """Carry out releases and admissions, book all chunks, and return those to compute (not of bad slots).

        Raises:
            PlanError: the plan breaks the contract; the slots are then in no defined state.
        """
        if plan.step != self._step + 1:
            raise _wrong(plan, f"step must be {self._step + 1}")
        if self._constrained is not None:
            raise _wrong(plan, f"step {self._step} has had no masks")
        self._step = plan.step
        for index in plan.releases:
            self._release(index, plan)
        for admission in plan.admissions:
            self._admit(admission, plan)
        behind_prefix: set[int] = set()
        total = 0
        seen: set[int] = set()
        for chunk in plan.chunks:
            self._check_index(chunk.slot, plan, "chunk")
            if chunk.slot in seen:
                raise _wrong(plan, f"chunk: slot {chunk.slot} has two chunks")
            seen.add(chunk.slot)
            slot = self[chunk.slot]
            if chunk.start and slot.computed is None:
                behind_prefix.add(chunk.slot)
            self._extend_table(chunk, slot, plan)
            self._advance(chunk, slot, plan)
            total += chunk.count
        self._check_written(plan)
        self._constrain(plan)
        self._check_snapshots(plan, behind_prefix)
        limit = self._config.max_num_batched_tokens
        if total > limit:
            raise _wrong(plan, f"chunks: {total} tokens, but max_num_batched_tokens is {limit}")
        return [chunk for chunk in plan.chunks if not self[chunk.slot].bad]

    def allow(self, masks: StepMasks) -> dict[int, bytes]:
        """The mask of each slot that is told; the step's other constrained slots go on waiting.

        Raises:
            PlanError: the masks break the contract; the slots are then in no defined state.
        """
        if self._constrained is None or masks.step != self._step:
            raise _wrong(masks, "masks are not due")
        left, self._constrained = self._constrained, None
        size, last = -(-self._vocab_size // 8), (self._vocab_size - 1) % 8
        nothing = bytes(size)
        for number, mask in enumerate(masks.masks):
            if len(mask) != size:
                raise _wrong(masks, f"mask {number}: {len(mask)} bytes, must be {size}")
            if mask == nothing or mask[-1] >= 2 << last:
                raise _wrong(masks, f"mask {number}: no id, or ids beyond the vocabulary")
        if len(masks.rows) != len(masks.slots):
            raise _wrong(masks, f"rows: {len(masks.rows)}, must be {len(masks.slots)}")
        allowed = {}
        for slot, row in zip(masks.slots, masks.rows, strict=True):
            if slot not in left:
                raise _wrong(masks, f"slot {slot}: it is not constrained, or told twice")
            if not 0 <= row < len(masks.masks):
                raise _wrong(masks, f"slot {slot}: row {row} is not in 0..{len(masks.masks) - 1}")
            left.discard(slot)
            self[slot].waits = False
            allowed[slot] = masks.masks[row]
        return allowed

    def _constrain(self, plan: StepPlan) -> None:
        """Note which slots sample nothing before they are told of what."""
        sampling = {chunk.slot for chunk in plan.chunks if chunk.sample}
        for index in plan.constrained:
            self._check_index(index, plan, "constrained")
            if not (index in sampling or self[index].waits):
                raise _wrong(plan, f"constrained slot {index}: it samples nothing")
            self[index].waits = True
        if len(set(plan.constrained)) < len(plan.constrained):
            raise _wrong(plan, "constrained: a slot is named twice")
        self._constrained = set(plan.constrained) or None

    def _check_snapshots(self, plan: StepPlan, behind_prefix: set[int]) -> None:
        """Note what each chunk does with snapshots; slots that go on `behind_prefix` need one to do so.

        None is written by two chunks, or read by one and written by another.
        """
        chunks, count = {chunk.slot: chunk for chunk in plan.chunks}, self._config.num_snapshots
        for slot in chunks:
            self[slot].snapshots = None
        written: set[int] = set()
        for use in plan.snapshots:
            where = f"snapshots of slot {use.slot}"
            if use.slot not in chunks or self[use.slot].snapshots is not None:
                raise _wrong(plan, f"{where}: it has no chunk, or has them twice")
            if not (-1 <= use.restore < count and -1 <= use.keep < count):
                raise _wrong(plan, f"{where}: {use.restore} or {use.keep} is not in -1..{count - 1}")
            if use.keep >= 0 and (use.keep in written or not 1 <= use.keep_after <= chunks[use.slot].count):
                raise _wrong(plan, f"{where}: {use.keep} is kept twice, or not behind a token of the chunk")
            if (use.restore >= 0) is not (use.slot in behind_prefix):
                raise _wrong(plan, f"{where}: restore is {use.restore}, which is for the first chunk behind a prefix")
            if use.keep >= 0:
                written.add(use.keep)
            self[use.slot].snapshots = use
        if any(use.restore in written for use in plan.snapshots):
            raise _wrong(plan, "snapshots: one is kept in the step in which another chunk goes on from it")
        missing = behind_prefix - {use.slot for use in plan.snapshots} if count else None
        if missing:
            raise _wrong(plan, f"snapshots: slot {min(missing)} has no state to go on from behind its prefix")

    def _check_index(self, index: int, plan: StepPlan, what: str, *, taken: bool = True) -> None:
        count = len(self._slots)
        if not 0 <= index < count:
            raise _wrong(plan, f"{what}: slot {index} is not in 0..{count - 1}")
        if (self._slots[index] is not None) is not taken:
            raise _wrong(plan, f"{what}: slot {index} is {'free' if taken else 'taken'}")

    def _release(self, index: int, plan: StepPlan) -> None:
        self._check_index(index, plan, "releases")
        self._slots[index] = None
        self.tables[index] = -1

    def _admit(self, admission: Admission, plan: StepPlan) -> None:
        index = admission.slot
        self._check_index(index, plan, "admissions", taken=False)
        where = f"admission of slot {index}"
        length, limit = len(admission.token_ids), self._config.max_model_len
        if not 1 <= length <= limit:
            raise _wrong(plan, f"{where}: token_ids has {length} ids, must have 1..{limit}")
        prompt = admission.num_prompt_tokens
        if not 1 <= prompt <= length:
            raise _wrong(plan, f"{where}: num_prompt_tokens is {prompt}, must be in 1..{length}")
        self._check_ids(admission.token_ids, plan, f"{where}: token_ids")
        self._check_ids(admission.stop_token_ids, plan, f"{where}: stop_token_ids")
        sampling = admission.sampling
        self._check_ids(sampling.logit_bias, plan, f"{where}: logit_bias")
        self._check_ids(sampling.allowed_token_ids or (), plan, f"{where}: allowed_token_ids")
        self._check_ids(sampling.logprob_token_ids or (), plan, f"{where}: logprob_token_ids")
        for word in sampling.bad_word_ids:
            self._check_ids(word, plan, f"{where}: bad_word_ids")
        if not sampling.greedy and sampling.seed is None:
            raise _wrong(plan, f"{where}: seed is missing, sampling is random")
        self._slots[index] = Slot(admission, self._vocab_size)

    def _check_ids(self, ids: Iterable[int], plan: StepPlan, what: str) -> None:
        low, high = min(ids, default=0), max(ids, default=0)
        wrong = low if low < 0 else high
        if not 0 <= wrong < self._vocab_size:
            raise _wrong(plan, f"{what}: id {wrong} is not in 0..{self._vocab_size - 1}")

    def _extend_table(self, chunk: Chunk, slot: Slot, plan: StepPlan) -> None:
        """Append the chunk's new blocks to its table row."""
        row = self.tables[chunk.slot]
        for block in chunk.new_blocks:
            where = f"chunk of slot {chunk.slot}: new_blocks"
            if not 0 <= block < self._num_blocks:
                raise _wrong(plan, f"{where}: block {block} is not in 0..{self._num_blocks - 1}")
            if slot.num_blocks == len(row):
                raise _wrong(plan, f"{where}: more than the {len(row)} blocks of max_model_len")
            if (row[: slot.num_blocks] == block).any():
                raise _wrong(plan, f"{where}: block {block} is there already")
            row[slot.num_blocks] = block
            slot.num_blocks += 1

    def _advance(self, chunk: Chunk, slot: Slot, plan: StepPlan) -> None:
        """Check the chunk's range against the slot, and count it as computed."""
        start, end = chunk.start, chunk.start + chunk.count
        size, limit = self._config.block_size, self._config.max_model_len
        room, length = slot.num_blocks * size, len(slot.tokens)
        wrong = None
        if chunk.count < 1:
            wrong = f"count is {chunk.count}, must be at least 1"
        elif start < 0 or (slot.computed is not None and start != slot.computed):
            wrong = f"start is {start}, must be {slot.computed or 0}"
        elif end > limit:
            wrong = f"it ends at {end}, but max_model_len is {limit}"
        elif end > room:
            wrong = f"it ends at {end}, but its {slot.num_blocks} blocks hold {room} tokens"
        # A bad slot got no token, which a plan made meanwhile cannot know.
        elif end > length and not slot.bad:
            wrong = f"it ends at {end}, but the history has {length} tokens"
        elif chunk.sample and end != length and not slot.bad:
            wrong = f"sample is set at {end} of {length} tokens"
        if wrong is not None:
            raise _wrong(plan, f"chunk of slot {chunk.slot}: {wrong}")
        slot.computed = end

    def _check_written(self, plan: StepPlan) -> None:
        """No block is written by two chunks, whose ranges have been checked."""
        size = self._config.block_size
        slots = np.array([chunk.slot for chunk in plan.chunks], dtype=np.int64)
        starts = np.array([chunk.start for chunk in plan.chunks], dtype=np.int64)
        ends = starts + np.array([chunk.count for chunk in plan.chunks], dtype=np.int64)
        firsts = starts // size
        counts = -(-ends // size) - firsts
        columns = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - firsts, counts)
        slots = np.repeat(slots, counts)
        blocks = self.tables[slots, columns]
        order = np.argsort(blocks, kind="stable")
        again = order[1:][blocks[order[1:]] == blocks[order[:-1]]]
        if len(again):
            first = again.min()
            raise _wrong(plan, f"chunk of slot {slots[first]}: block {blocks[first]} is written by two chunks")


def _as_bits(ids: Sequence[int], vocab_size: int) -> bytes:
    """As `StepMasks.masks`."""
    members = np.zeros(vocab_size, dtype=np.uint8)
    members[list(ids)] = 1
    return np.packbits(members, bitorder="little").tobytes()


def _wrong(plan: StepPlan | StepMasks, what: str) -> PlanError:
    return PlanError(f"step {plan.step}: {what}")

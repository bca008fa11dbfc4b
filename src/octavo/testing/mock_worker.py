"""A worker without a model: answers at once, in process, and checks every plan as the strictest worker would."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence

import msgspec
import numpy as np

from octavo.bad_words import BadWords
from octavo.config import EngineConfig
from octavo.errors import WorkerDiedError
from octavo.messages import (
    Admission,
    Chunk,
    FaultKind,
    PromptScores,
    SampledToken,
    SnapshotUse,
    StepMasks,
    StepPlan,
    StepResult,
    WorkerReady,
)
from octavo.testing.mock_model import digest, mock_score, mock_token

EXIT_CODES = {FaultKind.KILL: -signal.SIGKILL, FaultKind.SEGFAULT: -signal.SIGSEGV}
"""Of a worker that is told to commit a fault; 1 for all others."""


class MockWorker:
    """A `WorkerLink` whose model is `mock_token`.

    It keeps a simulated KV store: what was written where, as (token, position). Each chunk is run only if all earlier
    positions, read through the block table, hold this request's tokens.

    Raises:
        AssertionError: from `send`, if a plan breaks a rule.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        delay_s: float = 0.0,
        die_at_step: int | None = None,
        bad_tokens: Collection[int] = (),
        first_starts: int | None = None,
        says: Callable[[Sequence[int]], Sequence[int]] | None = None,
    ) -> None:
        """Each step takes `delay_s` seconds; the worker dies when it gets plan `die_at_step`; a chunk that computes one
        of `bad_tokens` has numbers that are not finite. The first chunk of a slot starts at a multiple of
        `first_starts`; None: where a cached prefix can end, at a multiple of the block size. `says` gives the answer to a
        prompt, both as token ids, instead of `mock_token`; it ends with the first EOS, or the model's own."""
        self.config = config
        self.plans: deque[StepPlan] = deque(maxlen=256)
        """The latest plans, oldest first."""
        self._delay_s = delay_s
        self._die_at_step = die_at_step
        self._bad_tokens = frozenset(bad_tokens)
        self._first_starts = first_starts or config.block_size
        self._says = says
        self._death: WorkerDiedError | None = None
        self._slots: dict[int, _Slot] = {}
        self._kv = np.full((config.num_blocks, config.block_size, 2), -1, dtype=np.int64)
        self._holders: Counter[int] = Counter()
        self._states: dict[int, int] = {}
        self._results: deque[tuple[float, StepResult]] = deque()
        self._open: tuple[StepPlan, StepResult] | None = None
        """A step whose masks are due."""
        self._last_step = 0
        self._free_at_s = 0.0

    @property
    def ready(self) -> WorkerReady:
        return WorkerReady(
            pid=os.getpid(),
            device="mock",
            weights_format="none",
            num_blocks=self.config.num_blocks,
            weight_bytes=0,
            kv_cache_bytes=self._kv.nbytes,
            workspace_bytes=0,
            load_s=0.0,
            warm_up_s=0.0,
        )

    def send(self, plan: StepPlan) -> None:
        if plan.step == self._die_at_step:
            self.die("the worker was told to die")
        for fault in plan.faults:
            if fault.kind is not FaultKind.NAN:
                self.die("the worker was told to die", exit_code=EXIT_CODES.get(fault.kind, 1))
        self._check_alive()
        self.plans.append(plan)
        result = self._run(plan)
        if plan.constrained:
            self._open = plan, result
        else:
            self._close_step(result)

    def tell(self, masks: StepMasks) -> None:
        self._check_alive()
        assert self._open is not None, "masks that are not due"
        (plan, result), self._open = self._open, None
        assert masks.step == plan.step, f"masks of step {masks.step}, due are those of {plan.step}"
        assert set(masks.slots) <= set(plan.constrained), "masks of slots that are not constrained"
        assert len(set(masks.slots)) == len(masks.slots), "masks of one slot twice"
        for slot, row in zip(masks.slots, masks.rows, strict=True):
            self._slots[slot].waits = False
            self._sample(self._slots[slot], slot, result, masks.masks[row])
        self._close_step(result)

    def _close_step(self, result: StepResult) -> None:
        self._free_at_s = max(time.monotonic(), self._free_at_s) + self._delay_s
        self._results.append((self._free_at_s, result))

    def receive(self, timeout_s: float | None) -> StepResult | None:
        self._check_alive()
        if not self._results:
            if timeout_s:
                time.sleep(timeout_s)
            return None
        due_s, result = self._results[0]
        left_s = due_s - time.monotonic()
        if self._delay_s and left_s > 0:
            time.sleep(left_s if timeout_s is None else min(left_s, timeout_s))
            self._check_alive()
            if timeout_s is not None and timeout_s < left_s:
                return None
        self._results.popleft()
        return result

    @property
    def stopped(self) -> bool:
        return False

    def last_output(self) -> list[str]:
        return []

    def close(self) -> None:
        self.die("the worker was closed")

    @property
    def alive(self) -> bool:
        return self._death is None

    def die(self, message: str, exit_code: int | None = -9) -> None:
        """Behave from now on as a worker whose process ended."""
        if self._death is None:
            self._death = WorkerDiedError(message, exit_code=exit_code)

    def _check_alive(self) -> None:
        if self._death is not None:
            raise self._death

    def _run(self, plan: StepPlan) -> StepResult:
        assert plan.step == self._last_step + 1, f"plan {plan.step} after {self._last_step}"
        self._last_step = plan.step
        for slot in plan.releases:
            self._holders.subtract(self._slots.pop(slot).table)
        for admission in plan.admissions:
            self._admit(admission)
        assert plan.chunks or plan.constrained, "a step of nothing"
        assert self._open is None, "a plan before the masks of the one before"
        assert len({chunk.slot for chunk in plan.chunks}) == len(plan.chunks), "two chunks for one slot"
        assert sum(chunk.count for chunk in plan.chunks) <= self.config.max_num_batched_tokens
        result = StepResult(step=plan.step, sampled=[], elapsed_s=self._delay_s)
        for chunk in plan.chunks:
            self._take_blocks(self._slots[chunk.slot], chunk)
        for slot in {slot for fault in plan.faults for slot in fault.slots}:
            self._slots[slot].bad = True
        sampling = {chunk.slot for chunk in plan.chunks if chunk.sample}
        assert len(set(plan.constrained)) == len(plan.constrained), "a slot is constrained twice"
        for slot in plan.constrained:
            assert slot in sampling or self._slots[slot].waits, f"slot {slot} is constrained and samples nothing"
            self._slots[slot].waits = True
        for chunk in plan.chunks:
            self._compute(self._slots[chunk.slot], chunk, result)
        if self.config.num_snapshots is not None:
            self._move_states(plan, self.config.num_snapshots)
        return result

    def _move_states(self, plan: StepPlan, num_snapshots: int) -> None:
        """Assert that each chunk goes on from the recurrent state behind its own tokens; states are digests of those."""
        uses = {use.slot: use for use in plan.snapshots}
        read = {use.restore for use in plan.snapshots if use.restore >= 0}
        written = [use.keep for use in plan.snapshots if use.keep >= 0]
        assert len(uses) == len(plan.snapshots), "a chunk uses snapshots twice"
        assert all(0 <= snapshot < num_snapshots for snapshot in (*read, *written))
        assert len(set(written)) == len(written), "a snapshot is kept twice"
        assert not read.intersection(written), "a snapshot is kept where another chunk goes on from it"
        for chunk in plan.chunks:
            tokens, use = self._slots[chunk.slot].tokens, uses.pop(chunk.slot, SnapshotUse(chunk.slot))
            source = chunk.slot if use.restore < 0 else self.config.max_num_seqs + use.restore
            if chunk.start:
                state = self._states.get(source)
                assert state == digest(tokens[: chunk.start]), "the state gone on from is of other tokens"
            if use.keep >= 0:
                assert 1 <= use.keep_after <= chunk.count
                kept = digest(tokens[: chunk.start + use.keep_after])
                self._states[self.config.max_num_seqs + use.keep] = kept
            self._states[chunk.slot] = digest(tokens[: chunk.start + chunk.count])
        assert not uses, "snapshots for a slot without a chunk"

    def _admit(self, admission: Admission) -> None:
        assert 0 <= admission.slot < self.config.max_num_seqs, f"slot {admission.slot}"
        assert admission.slot not in self._slots, f"slot {admission.slot} is taken"
        assert 0 < admission.num_prompt_tokens <= len(admission.token_ids) < self.config.max_model_len + 1
        assert all(0 <= token < self.config.vocab_size for token in admission.token_ids)
        assert admission.sampling.greedy or admission.sampling.seed is not None
        self._slots[admission.slot] = _Slot(admission, self.config.max_model_len)

    def _take_blocks(self, slot: _Slot, chunk: Chunk) -> None:
        """Append the chunk's new blocks to the block table."""
        for block in chunk.new_blocks:
            assert 0 <= block < self.config.num_blocks, f"block {block}"
        slot.table += chunk.new_blocks
        assert len(set(slot.table)) == len(slot.table), "a block twice in one table"
        self._holders.update(chunk.new_blocks)

    def _compute(self, slot: _Slot, chunk: Chunk, result: StepResult) -> None:
        size = self.config.block_size
        start, end = chunk.start, chunk.start + chunk.count
        assert start == slot.computed or (slot.computed == 0 and start % self._first_starts == 0), f"start {start}"
        assert chunk.count > 0, f"count {chunk.count}"
        assert end <= min(slot.length, len(slot.table) * size), f"positions up to {end} do not fit"
        assert chunk.sample == (end == slot.length), "sampling belongs to the end of the history"
        self._check_context(slot, start)
        positions = np.arange(start, end)
        blocks = np.asarray(slot.table)[positions // size]
        assert all(self._holders[block] == 1 for block in set(blocks.tolist())), "writes to a shared block"
        self._kv[blocks, positions % size, 0] = slot.tokens[start:end]
        self._kv[blocks, positions % size, 1] = positions
        slot.computed = end
        if slot.bad or not self._bad_tokens.isdisjoint(slot.tokens[start:end].tolist()):
            slot.bad = True
            result.bad_slots.append(chunk.slot)
        elif slot.sampling.prompt_logprobs is not None and start + 1 < slot.num_prompt_tokens:
            result.prompt_scores.append(self._prompt_scores(slot, chunk))
        if chunk.sample and not slot.waits:
            self._sample(slot, chunk.slot, result)

    def _check_context(self, slot: _Slot, start: int) -> None:
        """Assert that positions before `start` hold what this request would have written there."""
        read = self._kv[slot.table].reshape(-1, 2)[:start]
        assert np.array_equal(read[:, 0], slot.tokens[:start]), "the KV read is of other tokens"
        assert np.array_equal(read[:, 1], np.arange(start)), "the KV read is of other positions"

    def _sample(self, slot: _Slot, number: int, result: StepResult, allowed: bytes | None = None) -> None:
        """Append the next token; a bad slot gets one that nobody will see."""
        assert slot.length < self.config.max_model_len, "a token past max_model_len"
        if slot.bad:
            slot.append(0)
            return
        num_made = slot.length - slot.num_prompt_tokens
        try:
            token = mock_token(
                slot.digest(),
                slot.length,
                num_made,
                slot.sampling,
                slot.stop_ids,
                self.config.vocab_size,
                allowed,
                slot.bad_words.completing(slot.tokens[: slot.length].tolist(), slot.num_prompt_tokens),
            )
        except ValueError:
            slot.bad = True
            result.bad_slots.append(number)
            return slot.append(0)
        if self._says is not None:
            token = self._said(slot, num_made, token, allowed)
        slot.append(token.token_id)
        result.sampled.append(SampledToken(number, token.token_id, token.score))

    def _said(self, slot: _Slot, num_made: int, token: SampledToken, allowed: bytes | None) -> SampledToken:
        """The token of the script, or `token` where a grammar does not let that come."""
        assert self._says is not None
        told = self._says(slot.prompt)
        id_ = told[num_made] if num_made < len(told) else self.config.eos_token_ids[0]
        if allowed is not None and not allowed[id_ // 8] >> id_ % 8 & 1:
            return token
        score = None if token.score is None else msgspec.structs.replace(token.score, token_id=id_)
        return SampledToken(0, id_, score)

    def _prompt_scores(self, slot: _Slot, chunk: Chunk) -> PromptScores:
        assert slot.sampling.prompt_logprobs is not None
        first, end = chunk.start + 1, min(chunk.start + chunk.count + 1, slot.num_prompt_tokens)
        scores = []
        for position in range(first, end):
            history = digest(slot.tokens[:position])
            scores.append(
                mock_score(history, int(slot.tokens[position]), slot.sampling.prompt_logprobs, self.config.vocab_size)
            )
        return PromptScores(chunk.slot, first, scores)


class MockSource:
    """A `WorkerSource` of mock workers: `make` is given the number of each, from 0, and its configuration."""

    def __init__(
        self,
        config: EngineConfig,
        make: Callable[[int, EngineConfig], MockWorker] = lambda _, config: MockWorker(config),
    ) -> None:
        self.workers: list[MockWorker] = []
        """All that were started, in order."""
        self._config = config
        self._make = make

    def start(self, num_blocks: int | None) -> MockWorker:
        assert all(not worker.alive for worker in self.workers), "a worker started before the last was closed"
        config = self._config if num_blocks is None else dataclasses.replace(self._config, num_blocks=num_blocks)
        self.workers.append(self._make(len(self.workers), config))
        return self.workers[-1]

    def tend(self) -> None:
        pass

    def abandon(self) -> None:
        pass

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


class _Slot:
    """Holds what the worker knows of one running request."""

    def __init__(self, admission: Admission, max_model_len: int) -> None:
        self.sampling = admission.sampling
        self.stop_ids = frozenset(admission.stop_token_ids)
        self.bad_words = BadWords(admission.sampling.bad_word_ids)
        self.num_prompt_tokens = admission.num_prompt_tokens
        self.length = len(admission.token_ids)
        self.tokens = np.full(max_model_len, -1, dtype=np.int64)
        self.tokens[: self.length] = admission.token_ids
        self.table: list[int] = []
        self.computed = 0
        self.bad = False
        self.waits = False
        """It is computed to its end and has not been told what it may sample."""
        self._digest = 0
        self._digested = 0

    @property
    def prompt(self) -> list[int]:
        ids: list[int] = self.tokens[: self.num_prompt_tokens].tolist()
        return ids

    def append(self, token: int) -> None:
        self.tokens[self.length] = token
        self.length += 1

    def digest(self) -> int:
        self._digest = digest(self.tokens[self._digested : self.length], self._digest)
        self._digested = self.length
        return self._digest

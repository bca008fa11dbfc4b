"""Decides which tokens of which sequences run in the next step."""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Collection, Iterable

from octavo.config import EngineConfig
from octavo.engine.blocks import BlockPool
from octavo.engine.prefix import PrefixIndex
from octavo.engine.queue import Queue
from octavo.engine.sequence import NEVER, Finished, Running, Sequence, State, Waiting
from octavo.engine.statistics import Counters
from octavo.engine.step import Step
from octavo.engine.update import FinishReason
from octavo.messages import Admission, Chunk, SnapshotUse

FIRST_TOKENS = 512
"""Token budget of the first step behind a death; it doubles from step to step, up to that of every step. The largest step may
take longer than workers live when something kills one after the other, and then nobody would ever get on."""

_NO_BLOCKS: list[int] = []


def _priority(running: Running) -> int:
    return running.sequence.priority


class Scheduler:
    """Continuous batching: first come, first served among those of one priority; decode before prefill before new sequences.

    All running sequences arrived before all waiting ones of their priority: the queue is entered before them only by
    preemption, which takes the last to arrive of the last priority. A sequence gets the blocks of its whole history when it
    starts, so only decode can run out of blocks, and the first always goes on. None gives way to one that only waits.

    Args:
        counters: go on from one schedule to the next.
        replays: a worker has died, and what it had computed is computed again.
        most_tokens: of a step; None: what `config` says.
    """

    def __init__(
        self, config: EngineConfig, counters: Counters, *, replays: bool = False, most_tokens: int | None = None
    ) -> None:
        self.config = config
        self.counters = counters
        self.index = PrefixIndex(config.block_size, config.num_snapshots)
        self.pool = BlockPool(config.num_blocks, self.index)
        self.waiting = Queue()
        self.held: OrderedDict[str, Sequence] = OrderedDict()
        """Those of the queue that may not run now."""
        self.running: list[Running] = []
        """By priority, then in order of arrival."""
        self._chosen: Collection[str] | None = None
        """Who alone may run; None: everybody."""
        self.num_queued = 0
        """Requests in the queue that its bounds are for: not those that ran when their worker died."""
        self.num_queued_tokens = 0
        """Their tokens."""
        self.received = 0
        """The last step whose result is in."""
        self._steps = 0
        self._most = config.max_num_batched_tokens if most_tokens is None else most_tokens
        """Tokens of a step."""
        self._replays = replays
        self._budget = min(FIRST_TOKENS, self._most) if replays else self._most
        """Tokens of the next step."""
        self._slots = list(range(config.max_num_seqs - 1, -1, -1))
        self._releases: list[int] = []
        """Slots the worker still believes taken."""
        self._keeps_snapshots = bool(config.num_snapshots)

    def enqueue(self, sequence: Sequence) -> None:
        """Put a waiting sequence at the end of the queue."""
        self._place(sequence)
        self._count(sequence.state, 1)

    def restrict(
        self,
        sequences: Iterable[Sequence],
        chosen: Collection[str] | None,
        *,
        whole_steps: bool = True,
        most_tokens: int | None = None,
    ) -> None:
        """Take all off the worker, and let only those `chosen` run from now on (None: everybody).

        Args:
            sequences: all that are waiting, held or running, in order of arrival.
            whole_steps: those chosen may have the largest step at once: together in one they may do what they do not do apart.
            most_tokens: of a step from now on; None: what `config` says.
        """
        for running in self.running:
            self._vacate(running)
            tokens = running.sequence.tokens
            running.sequence.state = Waiting(len(tokens), after_step=self._steps, was_running=True)
        self.running.clear()
        self.waiting.clear()
        self.held.clear()
        self._chosen = chosen
        self._most = self.config.max_num_batched_tokens if most_tokens is None else most_tokens
        self._budget = self._most if whole_steps and chosen is not None else min(self._budget, self._most)
        for sequence in sequences:
            self._place(sequence)

    def plan(self, now_s: float) -> Step | None:
        """Plan the next step; None if nothing can run before the next result."""
        step = Step(self._steps + 1, self._budget)
        prefilling = self._plan_decodes(step)
        for running in prefilling:
            if not step.budget:
                break
            self._plan_prefill(running, step)
        self._admit(step, now_s)
        if not (step.chunks or step.sampling):
            return None
        self._steps = step.number
        self._budget = min(2 * self._budget, self._most)
        step.releases, self._releases = self._releases, []
        step.num_running = len(self.running)
        step.num_waiting = len(self.waiting)
        step.kv_usage = self.pool.usage
        return step

    def end(self, sequence: Sequence, reason: FinishReason) -> None:
        """Free all that `sequence` holds."""
        state = sequence.state
        assert not isinstance(state, Finished)
        sequence.state = Finished(reason)
        if isinstance(state, Waiting):
            self.waiting.remove(sequence)
            self.held.pop(sequence.request_id, None)
            self._count(state, -1)
            return
        self.running.remove(state)
        self._vacate(state)

    def register(self, running: Running) -> None:
        """Enter the blocks of `running` that became full with its last result into the prefix index."""
        size = self.config.block_size
        tokens = running.sequence.tokens
        while running.register_at <= running.computed:
            end = running.register_at
            block = running.blocks[end // size - 1]
            root = running.sequence.cache_root
            running.chain = self.index.register(running.chain, tokens[end - size : end], block, root)
            running.register_at = end + size if running.chain is not None else NEVER
            if running.chain is not None and end in running.pending:
                self.index.snapshots.keep(running.pending.pop(end), running.chain)

    def check_invariants(self) -> None:
        """Assert exact accounting of blocks, slots and queue, and the order of arrival."""
        self.pool.check_invariants([running.blocks for running in self.running])
        self.index.snapshots.check_invariants(
            snapshot for running in self.running for snapshot in running.pending.values()
        )
        slots = [running.slot for running in self.running]
        assert sorted(slots + self._slots) == list(range(self.config.max_num_seqs))
        states = [sequence.state for sequence in [*self.waiting, *self.held.values()]]
        if self._chosen is None:
            assert not self.held
        else:
            members = [*self.waiting, *(running.sequence for running in self.running)]
            assert {sequence.request_id for sequence in members} <= set(self._chosen)
        assert all(isinstance(state, Waiting) for state in states)
        bounded = [state.num_tokens for state in states if isinstance(state, Waiting) and not state.was_running]
        assert (self.num_queued, self.num_queued_tokens) == (len(bounded), sum(bounded))
        assert all(running.sequence.state is running for running in self.running)
        for running in self.running:
            assert running.computed <= running.planned <= running.capacity
            assert running.capacity == len(running.blocks) * self.config.block_size

    def _plan_decodes(self, step: Step) -> list[Running]:
        """Plan one token of each sequence that decodes; returns those that are still in prefill."""
        prefilling = []
        chunks, budget = step.chunks, step.budget
        for running in self.running:  # preemption shortens the list behind the place we are at
            start = running.planned
            if start < running.prefill_end:
                prefilling.append(running)
            elif running.waits:
                if running.sequence.mask() is not None:
                    running.waits = False
                    step.sample(running)
            elif (
                start != running.last
                and budget
                and (start >= running.ahead_at or running.sequence.can_sample_after(start + 1))
            ):
                new_blocks = _NO_BLOCKS
                if start == running.capacity:
                    new_blocks = self._extend(running)
                    if not new_blocks:
                        break
                chunks.append(Chunk(running.slot, start, 1, new_blocks, True))
                if self._keeps_snapshots:
                    self._plan_snapshot(running, start, start + 1, step)
                step.sample(running)
                running.planned = start + 1
                budget -= 1
        step.budget = budget
        return prefilling

    def _plan_prefill(self, running: Running, step: Step, new_blocks: list[int] = _NO_BLOCKS) -> None:
        """Plan as much of the prefill of `running` as fits; without its last token, if what may follow is not known yet."""
        start, end = running.planned, running.prefill_end
        if not running.sequence.can_sample_after(end):
            end -= 1
        if start == end:
            return
        most = NEVER if running.unbounded else self.config.long_prefill_token_threshold or NEVER
        count = min(end - start, step.budget, most)
        running.planned = start + count
        sample = running.planned == running.prefill_end
        step.chunks.append(Chunk(running.slot, start, count, new_blocks, sample))
        if self._keeps_snapshots:
            self._plan_snapshot(running, start, running.planned, step)
        step.prefills.append((running, count))
        step.budget -= count
        if sample:
            step.sample(running)

    def _plan_snapshot(self, running: Running, start: int, end: int, step: Step) -> None:
        """Plan which snapshot the chunk `start` .. `end` - 1 of `running` goes on from, and which gets the states in it."""
        restore, running.restore = running.restore, None
        border, snapshot = self._snapshot_at(running, start, end), None
        if border > start and running.register_at != NEVER:
            pinned = {use.restore for use in step.snapshots}
            snapshot = self.index.snapshots.take(pinned if restore is None else pinned | {restore})
        if snapshot is not None:
            running.pending[border] = snapshot
        if restore is not None or snapshot is not None:
            from_, to = (-1 if each is None else each for each in (restore, snapshot))
            step.snapshots.append(SnapshotUse(running.slot, from_, to, 0 if snapshot is None else border - start))

    def _snapshot_at(self, running: Running, start: int, end: int) -> int:
        """The block border in the chunk at which states are to be kept: the last that leaves a token of the prefill to
        compute, or one each `snapshot_spacing` tokens; 0: none."""
        size, spacing = self.config.block_size, self.config.snapshot_spacing
        last = (running.prefill_end - 1) // size * size
        if start < last <= end:
            return last
        border = end // size * size
        return border if border // spacing > start // spacing else 0

    def _admit(self, step: Step, now_s: float) -> None:
        """Start waiting sequences, in order, while budget, slots and blocks last."""
        while step.budget and self._slots and self.waiting:
            sequence = self.waiting.first
            running = self._start(sequence)
            if running is None:
                break
            if sequence.queue_s is None:
                self._first_start(sequence, running, now_s)
            tokens = sequence.tokens.tolist()
            stop_ids = sorted(sequence.stop_ids)
            step.admissions.append(
                Admission(running.slot, tokens, sequence.num_prompt_tokens, sequence.sampling, stop_ids)
            )
            self._plan_prefill(running, step, list(running.blocks))

    def _start(self, sequence: Sequence) -> Running | None:
        """Move `sequence` from the queue into a slot with blocks for its whole history; None if it must wait."""
        waiting = sequence.state
        assert isinstance(waiting, Waiting)
        # One block per running sequence stays unused: otherwise the next decode would preempt what starts here.
        spare = len(self.running)
        if waiting.after_step > self.received or self.pool.available <= spare:
            return None
        size = self.config.block_size
        # Those chosen show whether they kill by what they compute.
        reads = self.config.prefix_caching and sequence.reads_prefix_cache and self._chosen is None
        # What may follow is not known yet: a token is left to compute before the last.
        tokens = sequence.tokens if sequence.can_sample_after(len(sequence.tokens)) else sequence.tokens[:-1]
        hits = self.index.match(tokens, sequence.cache_root) if reads else []
        cached = [entry.block for entry in hits]
        num_new = -(-len(sequence.tokens) // size) - len(cached)
        if num_new + spare > self.pool.available_beside(cached):
            return None
        self.pool.share(cached)
        running = Running(sequence, self._slots.pop(), cached + self.pool.allocate(num_new), size, hits)
        # For the same reason as FIRST_TOKENS.
        running.unbounded = self._replays and not self.received
        if not self.config.prefix_caching:
            running.register_at = NEVER
        if running.restore is not None:
            self.index.snapshots.use(running.restore)
        self.waiting.remove(sequence)
        self._count(waiting, -1)
        sequence.state = running
        bisect.insort(self.running, running, key=_priority)
        return running

    def _first_start(self, sequence: Sequence, running: Running, now_s: float) -> None:
        """Note what is told of a sequence's first start only."""
        sequence.queue_s = now_s - sequence.arrival_s
        sequence.num_cached_tokens = running.computed
        if self.config.prefix_caching and sequence.reads_prefix_cache:
            self.counters.prefix_queries += sequence.num_prompt_tokens
            self.counters.prefix_hits += running.computed

    def _extend(self, running: Running) -> list[int]:
        """One more block for `running`, preempting the last to arrive if need be; empty if that was itself."""
        while not self.pool.available:
            victim = self.running.pop()
            self._preempt(victim)
            if victim is running:
                return []
        blocks = self.pool.allocate(1)
        running.blocks += blocks
        running.capacity += self.config.block_size
        return blocks

    def _preempt(self, victim: Running) -> None:
        """Put `victim` back at the front of the queue, with nothing computed."""
        sequence = victim.sequence
        self._vacate(victim)
        sequence.state = Waiting(len(sequence.tokens), after_step=self._steps)
        self.enqueue(sequence)
        self.waiting.put_first(sequence)
        sequence.num_preemptions += 1
        self.counters.preemptions += 1

    def _place(self, sequence: Sequence) -> None:
        """Puts a sequence at the end of the queue, or of the sequences that may not run."""
        may_run = self._chosen is None or sequence.request_id in self._chosen
        if may_run:
            self.waiting.add(sequence)
        else:
            self.held[sequence.request_id] = sequence

    def _count(self, state: State, sign: int) -> None:
        """`state` enters (1) or leaves (-1) the queue."""
        assert isinstance(state, Waiting)
        if not state.was_running:
            self.num_queued += sign
            self.num_queued_tokens += sign * state.num_tokens

    def _vacate(self, running: Running) -> None:
        """Give back slot and blocks. Steps in flight may still write there: plans run in order, so before any new owner."""
        self._releases.append(running.slot)
        self._slots.append(running.slot)
        for snapshot in running.pending.values():
            self.index.snapshots.give_back(snapshot)
        running.pending.clear()
        self.pool.release(running.blocks)

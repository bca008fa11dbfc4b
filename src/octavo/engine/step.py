"""One step: the plan being made, and what the engine remembers of it until its result is in."""

from __future__ import annotations

from octavo.engine.sequence import Running, Sequence
from octavo.engine.statistics import StepRecord
from octavo.errors import WorkerDiedError
from octavo.messages import Admission, Chunk, Fault, SnapshotUse, StepMasks, StepPlan

CAUTIOUS = 16
"""Tokens of a sequence that was late that are planned only once it is known which ids may follow, so that no step waits for it."""


class Step:
    """A plan being made, then in flight: the message and what the engine must remember to read its result."""

    __slots__ = (
        "admissions",
        "budget",
        "chunks",
        "constrained",
        "faults",
        "is_told",
        "kv_usage",
        "late",
        "num_running",
        "num_waiting",
        "number",
        "prefills",
        "releases",
        "sampling",
        "snapshots",
    )

    def __init__(self, number: int, budget: int) -> None:
        self.number = number
        self.budget = budget
        """Tokens that still fit."""
        self.chunks: list[Chunk] = []
        self.admissions: list[Admission] = []
        self.constrained: list[Running] = []
        """The sequences that are to get a token under a grammar."""
        self.is_told = True
        """The worker has all that it needs to sample; not before it has the masks of those that are constrained."""
        self.late: dict[int, Running] = {}
        """Slot -> who was to get a token, and does not: what it may be was not known in time."""
        self.faults: list[Fault] = []
        """Injected ones."""
        self.releases: list[int] = []
        self.snapshots: list[SnapshotUse] = []
        self.prefills: list[tuple[Running, int]] = []
        """Prefill chunks with their token counts, in the order planned."""
        self.sampling: dict[int, Running] = {}
        """Slot -> the sequence that gets a token."""
        self.num_running = 0
        self.num_waiting = 0
        self.kv_usage = 0.0

    def plan(self) -> StepPlan:
        return StepPlan(
            self.number,
            self.releases,
            self.admissions,
            self.chunks,
            self.faults,
            [running.slot for running in self.constrained],
            self.snapshots,
        )

    def masks(self) -> StepMasks:
        """What each constrained sequence may sample, if that is known; the others are late, and get no token in this step."""
        told: dict[int, bytes] = {}
        for running in self.constrained:
            mask = running.sequence.mask()
            if mask is not None:
                told[running.slot] = mask
            else:
                self.late[running.slot] = self.sampling.pop(running.slot)
                running.waits = True
                running.ahead_at = len(running.sequence.tokens) + CAUTIOUS
        self.is_told = True
        masks = {id(mask): mask for mask in told.values()}  # many share one
        numbers = {key: number for number, key in enumerate(masks)}
        return StepMasks(self.number, [*told], [numbers[id(mask)] for mask in told.values()], [*masks.values()])

    def holders(self) -> dict[int, Running]:
        """Slot -> who is in it in this step."""
        return {running.slot: running for running, _count in self.prefills} | self.sampling | self.late

    def sample(self, running: Running) -> None:
        """The sequence gets a token in this step."""
        self.sampling[running.slot] = running
        if running.sequence.grammar is not None:
            self.constrained.append(running)
            self.is_told = False

    def followed(self) -> list[Sequence]:
        """The sequences with a grammar that get a token, as long as the result is not booked."""
        return [running.sequence for running in self.constrained if running.slot in self.sampling]

    def beginning(self) -> list[Sequence]:
        """The sequences with a grammar of which a part is in prefill."""
        return [running.sequence for running, _count in self.prefills if running.sequence.grammar is not None]

    @property
    def tokens(self) -> int:
        """That it computes."""
        return sum([chunk.count for chunk in self.chunks])

    def slots(self) -> dict[str, int]:
        """The slot of each request in this step, by request id."""
        return {running.sequence.request_id: slot for slot, running in self.holders().items()}

    def positions(self) -> dict[str, int]:
        """The position up to which each request in this step is computed, by request id."""
        ends = {chunk.slot: chunk.start + chunk.count for chunk in self.chunks}
        return {
            running.sequence.request_id: ends[slot] if slot in ends else len(running.sequence.tokens)
            for slot, running in self.holders().items()
        }

    def record(self, number: int, elapsed_s: float) -> StepRecord:
        """Makes the record of this step, as the engine's step `number`, which took the worker `elapsed_s` seconds."""
        chunks = [count for _running, count in self.prefills]
        prefill_tokens = sum(chunks)
        decode_tokens = len(self.chunks) - len(chunks)
        return StepRecord(
            step=number,
            tokens=prefill_tokens + decode_tokens,
            chunks=chunks,
            prefill_tokens=prefill_tokens,
            decode_tokens=decode_tokens,
            running=self.num_running,
            waiting=self.num_waiting,
            kv_usage=self.kv_usage,
            elapsed_s=elapsed_s,
        )

    def holder(self, slot: int) -> Running:
        """Who was in `slot` in this step.

        Raises:
            WorkerDiedError: nobody was.
        """
        for running, _count in self.prefills:
            if running.slot == slot:
                return running
        if slot not in self.sampling and slot not in self.late:
            raise WorkerDiedError(f"the worker answered for slot {slot} in step {self.number}, unasked")
        return self.sampling[slot] if slot in self.sampling else self.late[slot]

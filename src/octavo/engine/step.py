"""One step: the plan being made, and what the engine remembers of it until its result is in."""

from __future__ import annotations

from octavo.engine.sequence import Running, Sequence
from octavo.engine.statistics import StepRecord
from octavo.errors import WorkerDiedError
from octavo.messages import Admission, AllowedIds, Chunk, Fault, SnapshotUse, StepPlan


class Step:
    """A plan being made, then in flight: the message and what the engine must remember to read its result."""

    __slots__ = (
        "admissions",
        "allowed",
        "budget",
        "chunks",
        "faults",
        "kv_usage",
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
        self.allowed: list[AllowedIds] = []
        """Of the sequences with a grammar that get a token."""
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
            self.number, self.releases, self.admissions, self.chunks, self.faults, self.allowed, self.snapshots
        )

    def holders(self) -> dict[int, Running]:
        """Slot -> who is in it in this step."""
        return {running.slot: running for running, _count in self.prefills} | self.sampling

    def sample(self, running: Running) -> None:
        """The sequence gets a token in this step."""
        self.sampling[running.slot] = running
        if running.sequence.allowed is not None:
            self.allowed.append(AllowedIds(running.slot, running.sequence.allowed[1]))

    def constrained(self) -> list[Sequence]:
        """The sequences with a grammar that get a token, as long as the result is not booked."""
        return [self.sampling[allowed.slot].sequence for allowed in self.allowed]

    def slots(self) -> dict[str, int]:
        """The slot of each request in this step, by request id."""
        prefilling = {running.sequence.request_id: running.slot for running, _count in self.prefills}
        return prefilling | {running.sequence.request_id: slot for slot, running in self.sampling.items()}

    def positions(self) -> dict[str, int]:
        """The position at which the chunk of each request in this step ends, by request id."""
        ends = {chunk.slot: chunk.start + chunk.count for chunk in self.chunks}
        return {request_id: ends[slot] for request_id, slot in self.slots().items()}

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
        if slot not in self.sampling:
            raise WorkerDiedError(f"the worker answered for slot {slot} in step {self.number}, unasked")
        return self.sampling[slot]

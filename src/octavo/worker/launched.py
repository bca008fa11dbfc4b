"""A step that the device has been given, and what becomes of it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from octavo.messages import Chunk, PromptScores, SampledToken, StepPlan, StepResult
from octavo.worker.sampling.rows import LogitRow, RowResult, SampledBatch, read_results
from octavo.worker.sampling.sampler import Draft
from octavo.worker.slots import Slot
from octavo.worker.transfer import Download


class Launched:
    """A step that the device has been given; `result` waits for it."""

    def __init__(self, plan: StepPlan, chunks: Sequence[Chunk], slots: Mapping[int, Slot], began_s: float) -> None:
        self.plan = plan
        self.chunks = chunks
        """Those of the plan that are computed."""
        self.slots = slots
        """Those that the step computes or samples. Others may be in their places before its result is asked for."""
        self.hidden: torch.Tensor | None = None
        """(R, H) bf16 of the rows that are wanted, until they are sampled from."""
        self.rows: Sequence[LogitRow] = ()
        """Those that chunks of this step want to be sampled."""
        self.finite: torch.Tensor | None = None
        """(R,) bool of `hidden`, from the draft on."""
        self.draft: Draft | None = None
        """Of all `rows`, if it was made while their masks are waited for."""
        self.is_sampled = False
        """All of it has been launched; until then its masks are waited for."""
        self.began_s = began_s
        self.sampled: list[SampledBatch] = []
        self.prompts: list[SampledBatch] = []
        self.hidden_rows: list[int] = []
        """(S + 1) of the hidden states: those of the chunk of each slot."""
        self.expected: dict[int, int] = {}
        """Slot -> position of the token that it samples."""
        self.download: Download | None = None
        self._result: StepResult | None = None

    @property
    def done(self) -> bool:
        """Whether `result` will not wait for the device, or for masks."""
        return self.is_sampled and (self._result is not None or self.download is None or self.download.arrived)

    def result(self) -> StepResult:
        """What the step gave, booked in its slots the first time. Of several steps the oldest is asked first."""
        assert self.is_sampled, "a step is sampled from before it is read"
        if self._result is None:
            self._result = self._read()
        return self._result

    def _read(self) -> StepResult:
        sampled, prompts, bad = self._row_results()
        named = [chunk.slot for chunk in self.plan.chunks]
        bad |= {index for index in named if index not in self.slots}
        # The step before may have found a slot bad after this one was launched.
        bad |= {index for index, slot in self.slots.items() if slot.bad}
        for index in bad & self.slots.keys():
            self.slots[index].bad = True
        tokens = [
            SampledToken(each.row.slot, each.token_id, each.score) for each in sampled if each.row.slot not in bad
        ]
        for token in tokens:
            self.slots[token.slot].resolve_token(self.expected[token.slot], token.token_id)
        return StepResult(
            step=self.plan.step,
            sampled=tokens,
            prompt_scores=list(_by_slot(each for each in prompts if each.row.slot not in bad)),
            bad_slots=[index for index in dict.fromkeys([*named, *self.expected]) if index in bad],
            elapsed_s=time.perf_counter() - self.began_s,
        )

    def _row_results(self) -> tuple[list[RowResult], list[RowResult], set[int]]:
        """Sampled tokens, scores of prompt tokens, and the slots whose numbers were not finite."""
        if self.download is None:
            return [], [], set()
        host = iter(self.download.tensors())
        finite = next(host).tolist() if self.chunks else []
        bounds = itertools.pairwise(self.hidden_rows)
        bad = {
            chunk.slot for chunk, (first, end) in zip(self.chunks, bounds, strict=True) if not all(finite[first:end])
        }
        sampled = list(read_results(self.sampled, host))
        prompts = list(read_results(self.prompts, host))
        bad |= {result.row.slot for result in (*sampled, *prompts) if not result.finite}
        return sampled, prompts, bad


def _by_slot(results: Iterable[RowResult]) -> Iterator[PromptScores]:
    """One message for each run of scores of one slot."""
    for slot, group in itertools.groupby(results, key=lambda result: result.row.slot):
        run = list(group)
        yield PromptScores(slot, run[0].row.position, [result.score for result in run if result.score is not None])

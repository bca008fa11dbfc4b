"""Mutated twins: faults of the kind that breaks promise 2 must be seen by the schedules that test it."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from bits.schedules import HEADS, House, Job, Machine, Solo, make_engine, run_schedule
from bits.tiny import HIDDEN, tiny_machine
from octavo.models.forward_batch import DeviceTokens, ForwardBatch
from octavo.models.kv_cache import KVCache
from octavo.sampling import SamplingParams
from octavo.worker import runner
from octavo.worker.runner import Model
from octavo.worker.sampling.adjust import Row
from octavo.worker.sampling.counts import TokenCounts
from octavo.worker.sampling.sampler import Draft

HOUSE = House(budget=20, seats=4, block_size=4, num_blocks=14, threshold=7)
JOBS = [
    Job(
        f"job-{i}",
        (*HEADS[i % 2][: 9 + i], i, i + 1),
        SamplingParams(
            seed=50 + i,
            temperature=1.2,
            max_tokens=10,
            ignore_eos=True,
            logprobs=1,
            prompt_logprobs=0 if i % 3 == 0 else None,
        ),
        arrival=i // 2,
    )
    for i in range(8)
]


@dataclasses.dataclass(frozen=True)
class StaleRow:
    """In a batch of several requests, one row of the second keeps the keys and values that were there before."""

    model: Model

    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        rows = [layer.flatten(1, 2) for layer in kv_cache.layers]
        place = batch.slot_mapping[batch.chunk_starts[len(batch.context_lens) // 2]]
        before = [row[:, place].nan_to_num(0.0) for row in rows]
        hidden = self.model.forward(batch, kv_cache)
        if len(batch.context_lens) > 1:
            for row, old in zip(rows, before, strict=True):
                row[:, place] = old
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.logits(hidden)


@dataclasses.dataclass(frozen=True)
class SplitByBatch:
    """The head sums in float32, in as many parts as there are rows: a split-k that looks at the batch."""

    model: Model
    weight: torch.Tensor

    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        return self.model.forward(batch, kv_cache)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((len(hidden), len(self.weight)))
        parts = zip(hidden.float().chunk(len(hidden), 1), self.weight.chunk(len(hidden), 1), strict=True)
        for rows, columns in parts:
            total += torch.stack([row @ columns.T for row in rows])
        return total


def differences(
    machine: Machine, seen: Counter[str] | None = None, *, ahead: int = 1, jobs: Sequence[Job] = JOBS
) -> list[str]:
    seen = Counter() if seen is None else seen
    answers = run_schedule(make_engine(machine, dataclasses.replace(HOUSE, ahead=ahead), seen), jobs, seen)
    return Solo(machine).differences(jobs, answers)


@pytest.mark.parametrize("ahead", [1, 2])
def test_the_real_model_differs_nowhere(ahead: int) -> None:
    seen: Counter[str] = Counter()
    assert differences(tiny_machine(), seen, ahead=ahead) == []
    assert min(seen["preemptions"], seen["cached"], seen["mixed steps"]) > 0, seen


def test_a_stale_row_is_seen() -> None:
    machine = tiny_machine()
    assert differences(dataclasses.replace(machine, model=StaleRow(machine.model))) != []


def test_a_gemm_that_looks_at_the_batch_is_seen() -> None:
    machine = tiny_machine()
    weight = torch.randn((machine.vocab_size, HIDDEN), generator=torch.Generator().manual_seed(1))
    assert differences(dataclasses.replace(machine, model=SplitByBatch(machine.model, weight))) != []


def test_a_token_of_a_step_before_the_last_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step launched ahead that takes tokens which have not been replaced yet."""
    monkeypatch.setattr(DeviceTokens, "write_to", lambda late, token_ids: None)
    assert differences(tiny_machine()) == []
    assert differences(tiny_machine(), ahead=2) != []


def test_random_numbers_by_row_of_the_batch_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_row(logits: torch.Tensor, rows: Sequence[Row]) -> Draft:
        return Draft(
            logits,
            [dataclasses.replace(row, sampling=row.sampling.replace(seed=i)) for i, row in enumerate(rows)],
        )

    monkeypatch.setattr(runner, "Draft", by_row)
    assert differences(tiny_machine()) != []


def test_random_numbers_by_step_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = itertools.count()

    def by_step(logits: torch.Tensor, rows: Sequence[Row]) -> Draft:
        step = next(steps)
        return Draft(logits, [dataclasses.replace(row, position=step) for row in rows])

    monkeypatch.setattr(runner, "Draft", by_step)
    assert differences(tiny_machine()) != []


@pytest.mark.parametrize("forgotten", ["begin", "add"])
def test_tokens_that_are_not_counted_are_seen(forgotten: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Penalties of a slot's request before, or of the prompt alone."""
    penalised = [job.sampling.replace(repetition_penalty=1.6, frequency_penalty=1.5) for job in JOBS]
    jobs = [dataclasses.replace(job, sampling=sampling) for job, sampling in zip(JOBS, penalised, strict=True)]
    assert differences(tiny_machine(), ahead=2, jobs=jobs) == []
    monkeypatch.setattr(TokenCounts, forgotten, lambda *_: None)
    assert differences(tiny_machine(), ahead=2, jobs=jobs) != []

"""Steps: a plan in, tokens out, one step launched while the one before still runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

import torch

from octavo.errors import ConfigError
from octavo.messages import Chunk, StepMasks, StepPlan, StepResult, WorkerConfig
from octavo.models.forward_batch import ForwardBatch
from octavo.models.kv_cache import KVCache
from octavo.ops.draw.fixed_point import MAX_VOCAB
from octavo.ops.peak import peak
from octavo.ops.upload import upload
from octavo.worker.batch import make_batch
from octavo.worker.faults import commit
from octavo.worker.launched import Launched
from octavo.worker.sampling.adjust import Row
from octavo.worker.sampling.counts import TokenCounts
from octavo.worker.sampling.rows import LogitRow, SampledBatch
from octavo.worker.sampling.sampler import Draft
from octavo.worker.sampling.scores import Scores, score
from octavo.worker.slots import Slots
from octavo.worker.transfer import Download

MAX_LOGITS = 2**26
"""Most logits at once (256 MiB in float32): one product for all rows that are sampled reads the head's weights once."""
MAX_SAMPLED = 2**24
"""Most of them that a CPU samples at once: bounds the memory of that, which is several times theirs."""
MAX_ROWS = 512
"""Most rows at once, however small the vocabulary."""


IdleWork = Callable[[], bool]
"""What makes later steps faster, a part of a second at a time, for when nothing else is to be done; False: it is done."""


def no_work() -> bool:
    return False


class Model(Protocol):
    """What a runner needs of a model. Each row of both results depends on the tokens of its own request only."""

    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        """(R, H) bf16 hidden states after the last norm, of the rows that `batch.output_counts` wants, until the next call; keys and
        values of all rows are written to `kv_cache`. The tensors of `batch` are on the host.
        """
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(R, V) float32 from (R, H) bf16."""
        ...


class Runner:
    """Executes plans in order on one model.

    Args:
        model: its forward pass.
        kv_cache: on the device that the model is on; written.
        config: limits.
        vocab_size: V, at most 2^20.
        idle_work: see `IdleWork`.

    Raises:
        ConfigError: the vocabulary is too large for the sampler.
    """

    def __init__(
        self,
        model: Model,
        kv_cache: KVCache,
        config: WorkerConfig,
        *,
        vocab_size: int,
        idle_work: IdleWork = no_work,
    ) -> None:
        if vocab_size > MAX_VOCAB:
            raise ConfigError("model", f"has {vocab_size} token ids; the sampler takes up to {MAX_VOCAB}")
        self.idle_work = idle_work
        self._model = model
        self._kv_cache = kv_cache
        self._slots = Slots(config, num_blocks=kv_cache.num_blocks, vocab_size=vocab_size)
        self._vocab_size = vocab_size
        self._device = kv_cache.device
        self._rows_of_logits, self._rows_at_once = (
            max(1, min(MAX_ROWS, most // vocab_size))
            for most in (MAX_LOGITS, MAX_SAMPLED if self._device.type == "cpu" else MAX_LOGITS)
        )
        self._counts = TokenCounts(config.max_num_seqs, vocab_size, self._device)
        self._last_sampled = torch.zeros(config.max_num_seqs, dtype=torch.int64, device=self._device)
        """(slots,) for the step after, which need not wait until the host knows them."""
        self._launched: deque[Launched] = deque()
        """The last two steps: the host may not have read their results."""
        self._kept: dict[int, torch.Tensor] = {}
        """Slot -> (H,) bf16 hidden states that its next token is to be sampled from, once it is told which ids it may be."""

    def run(self, plan: StepPlan) -> StepResult:
        """Execute `plan`, of which no slot is constrained; what it samples is appended to the slots and comes to the host in one
        copy.

        Raises:
            PlanError: the plan breaks the contract.
        """
        return self.launch(plan).result()

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> Launched:
        """Give the device all of `plan`, behind the step before, whose result need not have been read.

        Reads the result of step n - 2 first. If a request has forbidden words, also reads that of n - 1: they need every
        token on the host. If slots are constrained, nothing is sampled before `sample`, which comes before the next launch.

        Raises:
            PlanError: the plan breaks the contract.
        """
        began_s = time.perf_counter()
        spoiled = commit(plan.faults, self._device)
        self._read_but(1)
        chunks = self._slots.apply(plan)
        for slot in plan.releases:
            self._kept.pop(slot, None)
        for admission in plan.admissions:
            if self._slots[admission.slot].is_penalised:
                prompt = admission.num_prompt_tokens
                self._counts.begin(admission.slot, admission.token_ids[:prompt], admission.token_ids[prompt:])
        if any(self._slots[chunk.slot].needs_history for chunk in chunks):
            self._read_but(0)
            chunks = [chunk for chunk in chunks if not self._slots[chunk.slot].bad]
        slots = {index: self._slots[index] for index in (*(chunk.slot for chunk in chunks), *plan.constrained)}
        step = Launched(plan, chunks, {index: slot for index, slot in slots.items() if not slot.bad}, began_s)
        if chunks:
            self._compute(step, chunks, spoiled)
            step.rows = self._rows_to_sample(chunks, step.hidden_rows)
        self._launched.append(step)
        if not plan.constrained:
            self._sample(step, {})
        return step

    @torch.inference_mode()
    def draft(self) -> None:
        """If the step that was launched last waits for its masks, launch what its sampling needs besides: logits, and settings.

        To be called when nothing is more urgent; without it, `sample` does so.
        """
        step = self._launched[-1] if self._launched else None
        if step is None or step.hidden is None or step.finite is not None:
            return
        step.finite = peak(step.hidden, find=False).finite
        if 0 < len(step.rows) <= min(self._rows_of_logits, self._rows_at_once):
            ((_, step.draft),) = self._drafts(step.rows, step.hidden)

    @torch.inference_mode()
    def sample(self, masks: StepMasks) -> None:
        """Have the step that was launched last sample its tokens, the constrained slots of those that `masks` tell.

        Raises:
            PlanError: the masks break the contract.
        """
        self._sample(self._launched[-1], self._slots.allow(masks))

    def _read_but(self, count: int) -> None:
        """Read the results of all steps but the last `count`."""
        while len(self._launched) > count:
            self._launched.popleft().result()

    def _compute(self, step: Launched, chunks: Sequence[Chunk], spoiled: Collection[int]) -> None:
        """Launch all that `chunks` need; the numbers of `spoiled` slots become NaN."""
        batch = make_batch(
            chunks,
            self._slots,
            block_size=self._kv_cache.block_size,
            sampled=self._last_sampled,
            output_counts=tuple(self._output_count(chunk) for chunk in chunks),
        )
        if self._device.type == "cpu":
            batch = batch.to(self._device)
        step.hidden = self._model.forward(batch, self._kv_cache)
        step.hidden_rows = list(batch.output_starts)
        for i, chunk in enumerate(chunks):
            if chunk.slot in spoiled:
                step.hidden[step.hidden_rows[i] : step.hidden_rows[i + 1]] = torch.nan

    def _sample(self, step: Launched, allowed: Mapping[int, bytes]) -> None:
        """Launch what follows the forward pass of `step`; of its constrained slots, only those `allowed` anything are sampled."""
        step.is_sampled = True
        hidden, step.hidden = step.hidden, None
        draft, step.draft = step.draft, None
        finite: list[torch.Tensor] = []
        if hidden is not None:
            finite = [peak(hidden, find=False).finite if step.finite is None else step.finite]
        untold = set(step.plan.constrained).difference(allowed)
        late = [row for row in step.rows if row.slot in untold]
        if late:  # a row's bits are the same in a draft without those
            draft = None
        drafted = [] if draft is None else step.rows
        chosen = [] if draft is not None else [row for row in step.rows if row.slot not in untold]
        waited = [index for index in allowed if index in self._kept and index in step.slots]
        if waited:
            first = 0 if hidden is None else len(hidden)
            kept = [self._kept.pop(index) for index in waited]
            hidden = torch.stack(kept) if hidden is None else torch.cat([hidden, torch.stack(kept)])
            chosen += [
                LogitRow(index, row, len(slot.tokens), slot.sampling.num_scores)
                for row, index in enumerate(waited, first)
                for slot in [self._slots[index]]
            ]
        if hidden is None:
            return
        for row in late:
            self._kept[row.slot] = hidden[row.hidden_row].clone()
        if draft is not None:
            step.sampled.append(self._sample_rows(drafted, draft, allowed))
            del draft  # the next product's logits take the room of its own
        for together, other in self._drafts(chosen, hidden):
            step.sampled.append(self._sample_rows(together, other, allowed))
            del other
        for together, logits in self._with_logits(self._prompt_rows(step.chunks, step.hidden_rows), hidden):
            step.prompts.append(self._score_known_tokens(together, logits))
            del logits
        for sampled in step.sampled:
            slots = upload(torch.tensor([row.slot for row in sampled.rows]), self._device)
            self._last_sampled.index_copy_(0, slots, sampled.token_ids)
        step.expected = {row.slot: self._slots[row.slot].reserve_token() for row in (*drafted, *chosen)}
        tensors = [tensor for batch in (*step.sampled, *step.prompts) for tensor in batch.tensors]
        step.download = Download([*finite, *tensors])

    def _output_count(self, chunk: Chunk) -> int:
        """How many last rows of `chunk` are wanted: all where prompt tokens are scored, else one.

        That one even where nothing is sampled: it attends to all rows before it, so it is not finite if any key or value
        that the chunk has written is not.
        """
        return 1 if self._slots[chunk.slot].sampling.prompt_logprobs is None else chunk.count

    def _rows_to_sample(self, chunks: Sequence[Chunk], starts: Sequence[int]) -> list[LogitRow]:
        """The last row of every chunk that ends its history."""
        return [
            LogitRow(chunk.slot, starts[i + 1] - 1, chunk.start + chunk.count, sampling.num_scores)
            for i, chunk in enumerate(chunks)
            if chunk.sample
            for sampling in [self._slots[chunk.slot].sampling]
        ]

    def _prompt_rows(self, chunks: Sequence[Chunk], starts: Sequence[int]) -> list[LogitRow]:
        """The rows that predict a prompt token to be scored: the row of position p - 1 predicts the token of p.

        So the first token of a chunk is scored by the chunk before it, and no row is kept from step to step.
        """
        rows = []
        for i, chunk in enumerate(chunks):
            slot = self._slots[chunk.slot]
            num_top = slot.sampling.prompt_logprobs
            if num_top is not None:
                end = min(chunk.start + chunk.count, slot.num_prompt_tokens - 1)
                first = starts[i] - chunk.start - 1
                rows += [LogitRow(chunk.slot, first + p, p, num_top) for p in range(chunk.start + 1, end + 1)]
        return rows

    def _with_logits(
        self, rows: Sequence[LogitRow], hidden: torch.Tensor
    ) -> Iterator[tuple[Sequence[LogitRow], torch.Tensor]]:
        """`rows` and their logits (R, V) float32, as many at a time as memory is kept for."""
        for together in _batches(rows, self._rows_of_logits):
            where = [row.hidden_row for row in together]
            is_all = where == list(range(len(hidden)))
            chosen = hidden if is_all else hidden.index_select(0, upload(torch.tensor(where), self._device))
            logits = self._model.logits(chosen)
            yield from zip(_batches(together, self._rows_at_once), logits.split(self._rows_at_once), strict=True)
            del logits

    def _drafts(self, rows: Sequence[LogitRow], hidden: torch.Tensor) -> Iterator[tuple[Sequence[LogitRow], Draft]]:
        """`rows` and their drafts, as many at a time as memory is kept for."""
        for together, logits in self._with_logits(rows, hidden):
            draft = Draft(logits, [self._settings_of(row) for row in together])
            del logits
            yield together, draft
            del draft

    def _sample_rows(self, rows: Sequence[LogitRow], draft: Draft, allowed: Mapping[int, bytes]) -> SampledBatch:
        """Sample the tokens of `rows`, of which masks allow some these ids by slot, and score them where asked."""
        masks = [allowed.get(row.slot) or self._slots[row.slot].permitted for row in rows]
        choice = draft.sample(masks, self._counts)
        penalised = [(index, row.slot) for index, row in enumerate(rows) if self._slots[row.slot].is_penalised]
        if penalised:
            indices, slots = upload(torch.tensor(penalised).T.contiguous(), self._device)
            self._counts.add(slots, choice.token_ids[indices])
        wanted = [index for index, row in enumerate(rows) if row.num_top is not None]
        if not wanted:
            return SampledBatch(rows, choice.token_ids, choice.finite, Scores.none(self._device))
        where = upload(torch.tensor(wanted, dtype=torch.int64), self._device)
        asked = [self._slots[rows[index].slot].sampling.logprob_token_ids or () for index in wanted]
        scores = score(draft.logits[where], choice.token_ids[where], self._most_top(rows), asked)
        return SampledBatch(rows, choice.token_ids, choice.finite, scores)

    def _score_known_tokens(self, rows: Sequence[LogitRow], logits: torch.Tensor) -> SampledBatch:
        """Score the prompt tokens that `rows` predict."""
        known = [self._slots[row.slot].tokens[row.position] for row in rows]
        token_ids = upload(torch.tensor(known), self._device)
        finite = peak(logits, find=False).finite
        return SampledBatch(rows, token_ids, finite, score(logits, token_ids, self._most_top(rows)))

    def _settings_of(self, row: LogitRow) -> Row:
        slot = self._slots[row.slot]
        counted = row.slot if slot.is_penalised else -1
        return Row(slot.sampling, row.position, slot.masked_ids, counted)

    def _most_top(self, rows: Sequence[LogitRow]) -> int:
        return min(self._vocab_size, max((row.num_top or 0 for row in rows), default=0))


def _batches(rows: Sequence[LogitRow], most: int) -> Iterator[Sequence[LogitRow]]:
    """`rows` in order, up to `most` at a time."""
    for start in range(0, len(rows), most):
        yield rows[start : start + most]

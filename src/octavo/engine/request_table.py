"""The accepted requests: their histories grow here, and what they are to be told is collected here."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Any

from octavo.config import EngineConfig
from octavo.engine.scheduler import Scheduler
from octavo.engine.sequence import Finished, Running, Sequence
from octavo.engine.statistics import Counters
from octavo.engine.step import Step
from octavo.engine.update import FinishReason, Update
from octavo.errors import RequestFailedError, WorkerDiedError
from octavo.messages import SampledToken, StepResult


class RequestTable:
    """All that an engine knows of its requests. No worker is needed to go on from it."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.counters = Counters()
        self.finished = dict.fromkeys(FinishReason, 0)
        """Requests ended, by reason."""
        self.most_tokens = config.max_num_batched_tokens
        """Of a step of a schedule that is made from now on."""
        self.scheduler = Scheduler(config, self.counters)
        self.sequences: dict[str, Sequence] = {}
        """The accepted requests that have not ended, by id, in order of arrival."""
        self.updates: list[Update] = []
        """News that nobody has taken yet."""

    def enqueue(self, sequence: Sequence) -> None:
        """Put an accepted sequence in the queue."""
        self.sequences[sequence.request_id] = sequence
        self.scheduler.enqueue(sequence)

    def end(self, sequence: Sequence, reason: FinishReason, **fields: Any) -> None:
        """Free what `sequence` holds and tell its end."""
        self.scheduler.end(sequence, reason)
        del self.sequences[sequence.request_id]
        self.finished[reason] += 1
        self._emit(sequence, finish_reason=reason, **fields)

    def end_all(self, error: WorkerDiedError) -> None:
        """End every request with `error`, and drop the schedule."""
        self.scheduler = Scheduler(self.config, self.counters)
        for sequence in self.sequences.values():
            self.refuse(sequence, error)
        self.sequences.clear()

    def refuse(self, sequence: Sequence, error: WorkerDiedError) -> None:
        """Tell the end of a sequence that is in no schedule."""
        sequence.state = Finished(FinishReason.ERROR)
        self.finished[FinishReason.ERROR] += 1
        self._emit(sequence, finish_reason=FinishReason.ERROR, error=copy_of(error))

    def replay(self) -> None:
        """The worker is lost: make a new schedule, in which every request waits with nothing computed."""
        running = self.scheduler.running
        self.counters.requests_replayed += len(running)
        self.counters.tokens_recomputed += sum(each.computed for each in running)
        self.scheduler = Scheduler(self.config, self.counters, replays=True, most_tokens=self.most_tokens)
        for sequence in self.sequences.values():
            sequence.wait_again()
            self.scheduler.enqueue(sequence)

    def restrict(
        self, chosen: Collection[str] | None, *, whole_steps: bool = True, most_tokens: int | None = None
    ) -> None:
        """See `Scheduler.restrict`; steps have `most_tokens` at most, None: as the others."""
        most = self.most_tokens if most_tokens is None else min(most_tokens, self.most_tokens)
        self.scheduler.restrict(self.sequences.values(), chosen, whole_steps=whole_steps, most_tokens=most)

    def apply_result(self, step: Step, result: StepResult) -> None:
        """Book what `step` gave.

        Raises:
            WorkerDiedError: the worker answered what was not asked.
        """
        self._fail(result.bad_slots, step)
        for scores in result.prompt_scores:
            step.holder(scores.slot).sequence.keep_scores(scores)
        for running, count in step.prefills:
            self._advance(running, running.computed + count)
        self._take_tokens(result.sampled, step)
        if step.sampling:
            raise WorkerDiedError(f"the worker gave no tokens for slots {sorted(step.sampling)} in step {step.number}")

    def check_invariants(self) -> None:
        """Assert that the live requests are those running, then those waiting, of each priority as they came, beside those held
        back; blocks and slots add up."""
        self.scheduler.check_invariants()
        held = self.scheduler.held
        ordered = [running.sequence for running in self.scheduler.running], list(self.scheduler.waiting)
        assert all(part == sorted(part, key=_priority) for part in ordered)
        free = [sequence for name, sequence in self.sequences.items() if name not in held]
        assert sorted(itertools.chain(*ordered), key=_priority) == sorted(free, key=_priority)
        assert [each for each in self.sequences if each in held] == list(held)

    def _fail(self, bad_slots: list[int], step: Step) -> None:
        """End the requests whose numbers were not finite, and none beside them."""
        for slot in bad_slots:
            running = step.holder(slot)
            step.sampling.pop(slot, None)
            # If the blocks have a new owner already, it waits for its first result and has nothing in the index.
            self.scheduler.pool.forget(running.blocks)
            if not isinstance(running.sequence.state, Finished):
                message = "the model's numbers for this request were not finite (NaN or infinity); others go on"
                if not running.sequence.ids_left(range(self.config.vocab_size)):
                    message = "min_tokens, allowed_token_ids and bad_words forbid every token that could come next"
                self.end(running.sequence, FinishReason.ERROR, error=RequestFailedError(message))

    def _advance(self, running: Running, computed: int) -> None:
        """Positions before `computed` are computed; full blocks enter the prefix index."""
        running.computed = computed
        if computed >= running.register_at and running.sequence.state is running:
            self.scheduler.register(running)

    def _take_tokens(self, tokens: list[SampledToken], step: Step) -> None:
        """Append each new token to its history; end what is finished."""
        take = step.sampling.pop
        updates = self.updates
        for token in tokens:
            running = take(token.slot, None)
            if running is None:
                raise WorkerDiedError(f"the worker sampled for slot {token.slot} in step {step.number}, unasked")
            sequence = running.sequence
            history = sequence.tokens
            length = len(history)
            if sequence.state is running:
                running.computed = length
                if length >= running.register_at:
                    self.scheduler.register(running)
            elif isinstance(sequence.state, Finished):
                continue
            history.append(token.token_id)
            self.counters.generation_tokens += 1
            if length == sequence.num_prompt_tokens:
                self._take_first(sequence, token)
            elif length + 1 == sequence.limit or token.token_id in sequence.stop_ids:
                self._take_last(sequence, token)
            else:
                updates.append(
                    Update(
                        request_id=sequence.request_id,
                        tokens=(token,),
                        num_cached_tokens=sequence.num_cached_tokens,
                        num_preemptions=sequence.num_preemptions,
                    )
                )

    def _take_first(self, sequence: Sequence, token: SampledToken) -> None:
        """Tell the first token, with the prompt's scores; it may be the last one too."""
        self.counters.prompt_tokens += sequence.num_prompt_tokens
        kept, sequence.prompt_scores = sequence.prompt_scores, None
        scores = None if kept is None else [score for score in kept if score is not None]
        if scores is not None and len(scores) < sequence.num_prompt_tokens - 1:
            error = RequestFailedError("the worker left out scores of prompt tokens")
            self.end(sequence, FinishReason.ERROR, error=error)
            return
        self._take_last(sequence, token, prompt_scores=scores, queue_s=sequence.queue_s)

    def _take_last(self, sequence: Sequence, token: SampledToken, **first: Any) -> None:
        """Tell a token that may end the sequence."""
        made = sequence.num_made_tokens
        if token.token_id in sequence.stop_ids and made > sequence.sampling.min_tokens:
            is_eos = not sequence.sampling.ignore_eos and token.token_id in self.config.eos_token_ids
            stop_id = None if is_eos else token.token_id
            self.end(sequence, FinishReason.STOP, tokens=(token,), stop_token_id=stop_id, **first)
        elif len(sequence.tokens) == sequence.limit:
            self.end(sequence, FinishReason.LENGTH, tokens=(token,), **first)
        else:
            self._emit(sequence, tokens=(token,), **first)

    def _emit(self, sequence: Sequence, **fields: Any) -> None:
        self.updates.append(
            Update(
                request_id=sequence.request_id,
                num_cached_tokens=sequence.num_cached_tokens,
                num_preemptions=sequence.num_preemptions,
                **fields,
            )
        )


def _priority(sequence: Sequence) -> int:
    return sequence.priority


def copy_of(death: WorkerDiedError) -> WorkerDiedError:
    """One for each who may raise it: an error raised again and again grows its traceback."""
    return WorkerDiedError(death.message, exit_code=death.exit_code, cause=death.cause)

"""Promises 1 and 2 on one worker: the same requests alone and in every kind of company, compared bit by bit."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np

from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.engine.processes.link import WorkerLink
from octavo.engine.request import Request
from octavo.engine.statistics import EngineStatus, StepRecord
from octavo.errors import OctavoError, RequestError
from octavo.messages import SampledToken, StepMasks, StepPlan, StepResult, TokenScore, WorkerReady
from octavo.sampling import SamplingParams

ANSWER_BLOCKS = 5
"""KV blocks that answers fill which are there to need more than there are."""


class SharedLink:
    """One worker for one engine after another: gives each a link that looks fresh.

    Step numbers go on counting for the worker, and the slots that an engine left behind are released in the first plan
    of the next.
    """

    def __init__(self, link: WorkerLink) -> None:
        self._link = link
        self._offset = 0
        self._sent = 0
        self._held: set[int] = set()
        self._left: list[int] = []

    @property
    def ready(self) -> WorkerReady:
        return self._link.ready

    def begin(self) -> None:
        """The next plan is of a new engine; nothing is in flight."""
        self._offset = self._sent
        self._left = sorted(self._held)

    def send(self, plan: StepPlan) -> None:
        self._sent = plan.step + self._offset
        releases = self._left + plan.releases
        self._left = []
        self._held = self._held.difference(releases).union(admission.slot for admission in plan.admissions)
        self._link.send(msgspec.structs.replace(plan, step=self._sent, releases=releases))

    def tell(self, masks: StepMasks) -> None:
        self._link.tell(msgspec.structs.replace(masks, step=masks.step + self._offset))

    def receive(self, timeout_s: float | None) -> StepResult | None:
        result = self._link.receive(timeout_s)
        if result is None:
            return None
        return StepResult(
            step=result.step - self._offset,
            sampled=result.sampled,
            prompt_scores=result.prompt_scores,
            bad_slots=result.bad_slots,
            elapsed_s=result.elapsed_s,
        )

    @property
    def stopped(self) -> bool:
        return False

    def last_output(self) -> list[str]:
        return self._link.last_output()

    def close(self) -> None:
        self._link.close()


@dataclasses.dataclass
class Answer:
    """The bits of one answer; equal answers are equal in every bit (a NaN equals nothing)."""

    tokens: list[tuple[int, TokenScore | None]] = dataclasses.field(default_factory=list)
    prompt_scores: list[TokenScore] | None = None
    error: OctavoError | None = None

    def add(self, sampled: Iterable[SampledToken]) -> None:
        self.tokens += [(token.token_id, token.score) for token in sampled]


@dataclasses.dataclass
class Run:
    """Holds what one engine did with some requests."""

    answers: dict[str, Answer]
    records: list[StepRecord]
    status: EngineStatus
    num_cached_tokens: int


Expectation = Callable[[Run], bool]
"""Whether the run did what its case is about; if not, the case proved nothing."""


@dataclasses.dataclass(frozen=True)
class Case:
    """The probes in one kind of company."""

    name: str
    config: EngineConfig
    older: int = 0
    """Other requests that came before the probes."""
    younger: int = 0
    """Other requests that came after them."""
    answer_blocks: int = 0
    """KV blocks that the answers of the others fill; 0: one to three tokens behind a long prompt."""
    rounds: int = 1
    """How often the probes are asked, one round after the other; each begins with the end of the one before, which caches keep
    longest."""
    reverse: bool = False
    expect: Expectation = lambda run: True
    lacks: str = ""
    """What to say if `expect` is not met."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Says what became of a case."""

    name: str
    equal: int
    """Answers with the bits of the request alone."""
    compared: int
    largest_step: int
    """Tokens of the largest step."""
    trouble: str = ""
    """Why it failed; empty if it passed."""


class Verification:
    """Runs cases on the worker behind `link`; `config` has the limits of that worker."""

    def __init__(self, link: WorkerLink, config: EngineConfig, *, quick: bool, seed: int = 0) -> None:
        self._link = SharedLink(link)
        # All company comes at once, which bounds of the queue would refuse.
        self._config = dataclasses.replace(config, max_num_queued_reqs=None, max_num_queued_tokens=None)
        self._quick = quick
        self._rng = np.random.default_rng(seed)
        self.probes = self._make_probes()
        self.reference: dict[str, Answer] = {}
        """Probe to its answer alone."""

    def cases(self) -> list[Case]:
        """Every kind of company that the limits allow."""
        config = self._config
        plain = dataclasses.replace(config, prefix_caching=False)
        most = config.max_num_seqs
        counts = [
            n
            for n in ((1, 4, 16) if self._quick else (1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 128, 256))
            if n <= most
        ]
        budgets = (7, 184, 1001, 8192) if self._quick else (2, 7, 184, 1001, 2048, 4096, 8191, 8192, 8193, 16384)
        cases = [
            Case(f"{n} at once", dataclasses.replace(plain, max_num_seqs=n), older=n // 2, younger=n - n // 2)
            for n in counts
        ]
        cases += [self._budget_case(plain, tokens) for tokens in budgets if self._fills(plain, tokens)]
        chunk = dataclasses.replace(plain, long_prefill_token_threshold=37)
        longest = max(len(probe.prompt_token_ids) for probe in self.probes)
        scarce = dataclasses.replace(plain, num_blocks=self._blocks(longest + 16) + 2)
        cases += [
            Case("in reverse order", plain, older=2, younger=2, reverse=True),
            Case("prompts in chunks of 37 tokens", chunk, older=2, younger=2),
        ]
        if self._caches():
            cases.append(
                Case(
                    "prefix from the cache",
                    dataclasses.replace(config, prefix_caching=True),
                    rounds=2,
                    expect=lambda run: run.num_cached_tokens > 0,
                    lacks="no prompt token came from the cache",
                )
            )
        # So many of the others, grown, need more than the pool; to run side by side, they need a token each in a step.
        crowd = scarce.num_blocks // (1 + ANSWER_BLOCKS) + 1
        if (
            scarce.num_blocks <= config.num_blocks
            and scarce.num_blocks // 2 < most
            and crowd < config.max_num_batched_tokens
            and (1 + ANSWER_BLOCKS) * config.block_size <= config.max_request_tokens
        ):
            # half of the pool is taken by others that need the other half one step later: the youngest, the probes, give way
            cases.append(
                Case(
                    "preempted",
                    scarce,
                    older=scarce.num_blocks // 2,
                    answer_blocks=ANSWER_BLOCKS,
                    expect=lambda run: run.status.preemptions > 0,
                    lacks="no request was preempted",
                )
            )
        return cases

    def run_alone(self) -> None:
        """Make the reference: every probe alone in a fresh engine.

        Raises:
            OctavoError: one of them failed.
        """
        config = dataclasses.replace(self._config, prefix_caching=False)
        for probe in self.probes:
            run = self._run(config, [[probe]])
            answer = run.answers[probe.request_id]
            if answer.error is not None:
                raise answer.error
            self.reference[probe.request_id] = answer

    def run(self, case: Case) -> Outcome:
        """Ask the probes as `case` says and compare with the reference."""
        order = self.probes[::-1] if case.reverse else self.probes
        others = [self._other(number, case) for number in range(case.older + case.younger)]
        asked = [self._again(probe, 0) for probe in order]
        rounds = [[*others[: case.older], *asked, *others[case.older :]]]
        rounds += [
            [self._again(probe, number) for probe in order[:: (-1) ** number]] for number in range(1, case.rounds)
        ]
        run = self._run(case.config, rounds)
        compared = [(probe.request_id, number) for probe in order for number in range(case.rounds)]
        answers = [(run.answers[f"{name}/{number}"], self.reference[name]) for name, number in compared]
        equal = sum(answer == reference for answer, reference in answers)
        errors = [answer.error.message for answer in run.answers.values() if answer.error is not None]
        trouble = errors[0] if errors else ""
        if not trouble and equal < len(answers):
            trouble = f"{len(answers) - equal} answers differ"
        if not trouble and not case.expect(run):
            trouble = f"nothing proved: {case.lacks}"
        largest = max((record.tokens for record in run.records), default=0)
        return Outcome(case.name, equal, len(answers), largest, trouble)

    def refusals(self) -> Outcome:
        """Requests that can never be served are refused before they reach the worker, and the engine answers after."""
        vocab, longest = self._config.vocab_size, self._config.max_request_tokens
        prompts = [[], [vocab], [-1], [2**40], [0] * longest]
        self._link.begin()
        engine = Engine(self._config, self._link)
        refused = 0
        for number, prompt in enumerate(prompts):
            try:
                engine.add(Request(f"bad-{number}", prompt, SamplingParams(max_tokens=1)))
            except RequestError:
                refused += 1
            except OctavoError as error:
                return Outcome("bad requests refused", 0, 1, 0, error.message)
        probe = self.probes[0]
        answer = self._run(self._config, [[probe]]).answers[probe.request_id]
        trouble = ""
        if refused < len(prompts):
            trouble = f"{len(prompts) - refused} bad requests were accepted"
        elif answer != self.reference[probe.request_id]:
            trouble = answer.error.message if answer.error is not None else "the answer after them differs"
        return Outcome("bad requests refused", int(not trouble), 1, 0, trouble)

    def scored_as_prompts(self) -> Outcome:
        """A probe's answer, sent behind its prompt as a prompt of its own: each token's scores are those that it was decoded with."""
        config = dataclasses.replace(self._config, prefix_caching=False)
        asked: list[Request] = []
        for probe in self.probes:
            decoded = [token for token, _score in self.reference[probe.request_id].tokens[:-1]]
            sampling = SamplingParams(max_tokens=1, prompt_logprobs=probe.sampling.logprobs)
            asked.append(Request(probe.request_id, [*probe.prompt_token_ids, *decoded], sampling))
        run = self._run(config, [asked])
        equal, trouble = 0, ""
        for probe in self.probes:
            answer, reference = run.answers[probe.request_id], self.reference[probe.request_id].tokens[:-1]
            first = len(probe.prompt_token_ids) - 1
            if answer.error is not None:
                trouble = answer.error.message
            elif (answer.prompt_scores or [])[first:] == [score for _token, score in reference]:
                equal += 1
        trouble = trouble or ("" if equal == len(asked) else f"{len(asked) - equal} answers differ")
        largest = max((record.tokens for record in run.records), default=0)
        return Outcome("answers scored as prompts", equal, len(asked), largest, trouble)

    def _budget_case(self, plain: EngineConfig, tokens: int) -> Case:
        """Steps of exactly `tokens` tokens, as prompts fill them."""
        return Case(
            f"steps of {tokens} tokens",
            dataclasses.replace(plain, max_num_batched_tokens=tokens),
            younger=self._others_beside(tokens),
            expect=lambda run: any(record.tokens == tokens for record in run.records),
            lacks=f"no step had {tokens} tokens (too few sequences or KV blocks)",
        )

    def _others_beside(self, tokens: int) -> int:
        """So many that all prompts together have enough for two steps of `tokens`."""
        prompt = sum(len(probe.prompt_token_ids) for probe in self.probes)
        return max(0, -(-(2 * tokens - prompt) // self._other_len()))

    def _fills(self, plain: EngineConfig, tokens: int) -> bool:
        """Whether the limits let a step have `tokens` tokens: one prompt has them, or those that can start together."""
        if tokens > plain.max_num_batched_tokens:
            return False
        lengths = [len(probe.prompt_token_ids) for probe in self.probes]
        lengths += [self._other_len()] * self._others_beside(tokens)
        most, together, blocks = plain.long_prefill_token_threshold or tokens, 0, 0
        for started, length in enumerate(lengths[: plain.max_num_seqs]):
            blocks += self._blocks(length)
            if blocks + started > plain.num_blocks:
                break
            together += min(length, most)
        return max(together, min(max(lengths), most)) >= tokens

    def _caches(self) -> bool:
        """Whether the limits let a probe find its prefix: it has a full block, and all is kept until it comes again."""
        kept = self._config.num_snapshots
        blocks = [self._blocks(len(probe.prompt_token_ids) + (probe.sampling.max_tokens or 0)) for probe in self.probes]
        full = [len(probe.prompt_token_ids) > self._config.block_size for probe in self.probes]
        reads = [probe.sampling.prompt_logprobs is None for probe in self.probes]
        return (
            any(map(operator.and_, full, reads))
            and sum(blocks) <= self._config.num_blocks
            and (kept is None or kept > 1)  # of recurrent states; one would be that of whoever is asked in between
        )

    def _make_probes(self) -> list[Request]:
        """Requests with every kind of sampling and lengths around those where things happen."""
        answer_len = min(8 if self._quick else 16, self._config.max_request_tokens - 1)
        block, room = self._config.block_size, self._config.max_request_tokens - answer_len
        lengths = [1, 2, block - 1, block, block + 1, 33, 184, 1001] + ([] if self._quick else [64, 129, 513, 1999])
        fitting = sorted({length for length in lengths if 1 <= length <= room})
        samplings = [
            SamplingParams(temperature=0),
            SamplingParams(temperature=0.8, top_p=0.9, seed=1),
            SamplingParams(temperature=1.2, top_k=20, min_p=0.01, seed=2),
            SamplingParams(temperature=0.7, presence_penalty=0.5, frequency_penalty=0.5, seed=3),
            SamplingParams(temperature=0, repetition_penalty=1.3, prompt_logprobs=1),
        ]
        return [
            Request(
                f"probe-{length}",
                self._prompt(length),
                samplings[number % len(samplings)].replace(max_tokens=answer_len, ignore_eos=True, logprobs=3),
            )
            for number, length in enumerate(fitting)
        ]

    def _other_len(self) -> int:
        return max(1, min(1001, self._config.max_request_tokens - 3))

    def _other(self, number: int, case: Case) -> Request:
        """A request that is there to keep the probes company."""
        block = self._config.block_size
        length = block if case.answer_blocks else self._other_len()
        max_tokens = case.answer_blocks * block or min(1 + number % 3, self._config.max_request_tokens - length)
        sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=case.answer_blocks > 0, seed=number)
        return Request(f"other-{number}", self._prompt(length), sampling)

    def _prompt(self, length: int) -> list[int]:
        return [int(token) for token in self._rng.integers(self._config.vocab_size, size=length)]

    def _again(self, probe: Request, number: int) -> Request:
        return Request(f"{probe.request_id}/{number}", probe.prompt_token_ids, probe.sampling)

    def _blocks(self, length: int) -> int:
        return -(-length // self._config.block_size)

    def _run(self, config: EngineConfig, rounds: Sequence[Sequence[Request]]) -> Run:
        """Ask each round when the one before has ended."""
        self._link.begin()
        records: list[StepRecord] = []
        engine = Engine(config, self._link, records.append)
        answers = {request.request_id: Answer() for asked in rounds for request in asked}
        num_cached_tokens = 0
        for asked in rounds:
            for request in asked:
                try:
                    engine.add(request)
                except OctavoError as error:  # the worker is dead: every case from here on fails
                    answers[request.request_id].error = error
            while engine.has_work:
                for update in engine.step():
                    answer = answers[update.request_id]
                    answer.add(update.tokens)
                    answer.error = update.error
                    if update.prompt_scores is not None:
                        answer.prompt_scores = list(update.prompt_scores)
                    if update.finish_reason is not None:
                        num_cached_tokens += update.num_cached_tokens
        return Run(answers, records, engine.status(), num_cached_tokens)

"""Whole engines on one small model, run under drawn schedules: what promise 2 is tested with."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Collection, Sequence

import msgspec
import torch
from hypothesis import strategies as st

from octavo.config import EngineConfig
from octavo.config.facts import CacheLayout, RecurrentState
from octavo.engine import Engine, Request
from octavo.engine.recovery.supervisor import RestartBudget, Supervisor
from octavo.engine.statistics import StepRecord
from octavo.engine.update import FinishReason
from octavo.errors import DeathCause, OctavoError, WorkerDiedError
from octavo.messages import TokenScore, WorkerConfig, WorkerReady
from octavo.models.kv_cache import KVCache
from octavo.sampling import SamplingParams
from octavo.worker.inprocess import InProcessWorker
from octavo.worker.runner import Model, Runner

MAX_MODEL_LEN = 48
MOST_MADE = 12
STEPS = 2000
"""Far more than any schedule here needs: an engine that does not come to an end is an error."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """A loaded model and the shape of its KV cache."""

    model: Model
    vocab_size: int
    eos_token_id: int
    cache: CacheLayout

    @property
    def is_recurrent(self) -> bool:
        return any(isinstance(layer, RecurrentState) for layer in self.cache)

    def start(self, config: WorkerConfig) -> tuple[Runner, WorkerReady]:
        """A runner on a KV cache full of NaN: whatever is read before it is written shows."""
        assert config.num_blocks is not None
        cache = KVCache.allocate(
            self.cache,
            num_blocks=config.num_blocks,
            num_states=config.num_states,
            block_size=config.block_size,
            device=torch.device("cpu"),
        )
        for layer in cache.layers:
            layer.fill_(torch.nan)
        ready = WorkerReady(
            pid=os.getpid(),
            device="CPU",
            weights_format="",
            num_blocks=config.num_blocks,
            weight_bytes=0,
            kv_cache_bytes=0,
            workspace_bytes=0,
            load_s=0.0,
            warm_up_s=0.0,
        )
        return Runner(self.model, cache, config, vocab_size=self.vocab_size), ready


@dataclasses.dataclass(frozen=True)
class House:
    """What may differ from run to run without a bit changing."""

    budget: int = 8192
    seats: int = 8
    block_size: int = 16
    num_blocks: int = 64
    threshold: int = 0
    prefix_caching: bool = True
    ahead: int = 1
    """Steps launched before the result of the first is read."""
    num_snapshots: int = 4
    """Of a model with recurrent layers."""
    snapshot_spacing: int = 16
    kills: tuple[int, ...] = ()
    """Engine steps before which the worker dies."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A request with its place in a schedule."""

    name: str
    prompt: tuple[int, ...]
    sampling: SamplingParams
    arrival: int = 0
    """Engine steps before it comes."""
    abort_after: int | None = None
    """Engine steps after its arrival at which its client leaves."""


@dataclasses.dataclass
class Answer:
    """All that a client gets."""

    tokens: list[tuple[int, TokenScore | None]] = dataclasses.field(default_factory=list)
    prompt_scores: list[TokenScore] | None = None
    finish: FinishReason | None = None
    error: OctavoError | None = None
    num_cached_tokens: int = 0


def make_engine(machine: Machine, house: House, seen: Counter[str]) -> Engine:
    worker_config = WorkerConfig(
        model="",
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=house.seats,
        max_num_batched_tokens=house.budget,
        block_size=house.block_size,
        num_blocks=house.num_blocks,
        num_snapshots=house.num_snapshots if machine.is_recurrent else 0,
    )
    config = EngineConfig(
        vocab_size=machine.vocab_size,
        eos_token_ids=(machine.eos_token_id,),
        max_model_len=MAX_MODEL_LEN,
        max_num_batched_tokens=house.budget,
        max_num_seqs=house.seats,
        block_size=house.block_size,
        num_blocks=house.num_blocks,
        prefix_caching=house.prefix_caching,
        long_prefill_token_threshold=house.threshold,
        num_snapshots=house.num_snapshots if machine.is_recurrent else None,
        snapshot_spacing=house.snapshot_spacing,
    )

    def observe(record: StepRecord) -> None:
        seen["mixed steps"] += bool(record.chunks) and record.decode_tokens > 0
        seen["chunks"] += len(record.chunks)

    source = Workers(worker_config, machine, house.ahead)
    supervisor = Supervisor(source, RestartBudget(len(house.kills), 1e9))
    return Engine(config, source.start(None), observe, supervisor=supervisor)


class Mortal(InProcessWorker):
    """A worker that can be killed from outside."""

    def kill(self) -> None:
        self._killed = True
        self.close()

    def _live(self) -> Runner:
        if getattr(self, "_killed", False):
            raise WorkerDiedError("killed", exit_code=-9, cause=DeathCause.SIGNAL)
        return super()._live()


class Workers:
    """A `WorkerSource` of workers on one machine, each with a cache of its own."""

    def __init__(self, config: WorkerConfig, machine: Machine, ahead: int) -> None:
        self._config, self._machine, self._ahead = config, machine, ahead

    def start(self, num_blocks: int | None) -> Mortal:
        return Mortal(self._config, self._machine.start, ahead=self._ahead)

    def tend(self) -> None:
        pass

    def abandon(self) -> None:
        pass

    def close(self) -> None:
        pass


def run_schedule(
    engine: Engine, jobs: Sequence[Job], seen: Counter[str], kills: Collection[int] = ()
) -> dict[str, Answer]:
    """Run `jobs` to their end, killing the worker before the steps `kills`; `seen` counts what happened on the way."""
    answers = {job.name: Answer() for job in jobs}
    for step in range(STEPS):
        for job in jobs:
            if job.arrival == step:
                engine.add(Request(job.name, job.prompt, job.sampling))
            if job.abort_after is not None and job.arrival + job.abort_after == step:
                engine.abort(job.name)
        if step in kills and engine.has_work:
            seen["kills"] += 1
            vars(engine)["_link"].kill()
        for update in engine.step():
            answer = answers[update.request_id]
            answer.tokens += [(token.token_id, token.score) for token in update.tokens]
            answer.num_cached_tokens = update.num_cached_tokens
            if update.prompt_scores is not None:
                answer.prompt_scores = list(update.prompt_scores)
            if update.finish_reason is not None:
                assert answer.finish is None
                answer.finish, answer.error = update.finish_reason, update.error
        if not engine.has_work and all(job.arrival <= step for job in jobs):
            break
    assert all(answer.finish is not None for answer in answers.values())
    engine.check_invariants()
    status = engine.status()
    assert status.free_blocks == status.total_blocks
    seen["preemptions"] += status.preemptions
    seen["cached"] += sum(answer.num_cached_tokens > 0 for answer in answers.values())
    seen["aborted"] += sum(answer.finish is FinishReason.ABORT for answer in answers.values())
    seen["answers"] += len(answers)
    return answers


class Solo:
    """Requests run alone, each in a fresh engine with plain settings; the answers are kept."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._answers: dict[bytes, Answer] = {}
        self._seen: Counter[str] = Counter()

    def answer(self, job: Job) -> Answer:
        """What `job` gives alone, made as long as any job may ask for."""
        sampling = job.sampling.replace(max_tokens=MOST_MADE)
        key = msgspec.msgpack.encode((job.prompt, sampling))
        if key not in self._answers:
            alone = Job("alone", job.prompt, sampling)
            self._answers[key] = run_schedule(make_engine(self._machine, House(), self._seen), [alone], self._seen)[
                "alone"
            ]
        return self._answers[key]

    def differences(self, jobs: Sequence[Job], answers: dict[str, Answer]) -> list[str]:
        """Names of the jobs whose answer is not, bit for bit, what they give alone."""
        return [job.name for job in jobs if not self._is_same(job, answers[job.name])]

    def _is_same(self, job: Job, got: Answer) -> bool:
        alone = self.answer(job)
        limit = job.sampling.max_tokens
        assert limit is not None
        if got.finish is FinishReason.ABORT:
            scores_are_right = got.prompt_scores in (None, alone.prompt_scores)
            return scores_are_right and got.tokens == alone.tokens[: len(got.tokens)]
        # A stop id counts as a token; numbers that are not finite come with the token after the last.
        made = len(alone.tokens) + (alone.finish is FinishReason.ERROR)
        finish = alone.finish if made <= limit and alone.finish is not FinishReason.LENGTH else FinishReason.LENGTH
        expected = (alone.tokens[:limit], alone.prompt_scores, finish)
        return (got.tokens, got.prompt_scores, got.finish) == expected


HEADS = [[(7 * i * i + 3 * i + head) % 53 for i in range(24)] for head in range(3)]
"""Beginnings that prompts share."""

ids = st.integers(0, 52)


def some(default: float, low: float, high: float) -> st.SearchStrategy[float]:
    """`default` often, else anything between."""
    return st.one_of(st.just(default), st.just(default), st.floats(low, high))


samplings = st.builds(
    SamplingParams,
    temperature=st.one_of(st.just(0.0), some(1.0, 0.1, 2)),
    top_k=st.one_of(st.just(0), st.integers(1, 20)),
    top_p=some(1.0, 0.2, 1),
    min_p=some(0.0, 0, 0.5),
    presence_penalty=some(0.0, -2, 2),
    frequency_penalty=some(0.0, -2, 2),
    repetition_penalty=some(1.0, 0.5, 2),
    logit_bias=st.one_of(st.just({}), st.dictionaries(ids, st.floats(-5, 5), max_size=3)),
    seed=st.integers(-(2**63), 2**63 - 1),
    stop_token_ids=st.one_of(st.just([]), st.lists(ids, max_size=2)),
    ignore_eos=st.booleans(),
    max_tokens=st.one_of(st.just(MOST_MADE), st.integers(1, MOST_MADE)),
    min_tokens=st.just(0),
    logprobs=st.one_of(st.none(), st.integers(0, 3)),
    prompt_logprobs=st.one_of(st.none(), st.none(), st.integers(0, 2)),
    allowed_token_ids=st.one_of(st.none(), st.none(), st.lists(ids, min_size=1, max_size=30)),
    bad_word_ids=st.one_of(st.just([]), st.lists(st.lists(ids, min_size=1, max_size=3), max_size=40)),
    logprob_token_ids=st.one_of(st.none(), st.none(), st.lists(ids, min_size=1, max_size=3, unique=True)),
)
prompts = st.builds(
    lambda head, length, tail: (*HEADS[head][:length], *tail),
    st.integers(0, 2),
    st.sampled_from([0, 4, 9, 16, 17, 24]),
    st.lists(ids, min_size=1, max_size=8),
)


@st.composite
def jobs(draw: st.DrawFn) -> list[Job]:
    """One to seven requests, some of them sharing beginnings, some aborted."""
    drawn: list[Job] = []
    for i in range(draw(st.one_of(st.integers(1, 7), st.integers(4, 7)))):
        sampling = draw(samplings)
        min_tokens = draw(st.integers(0, sampling.max_tokens or 0)) if sampling.allowed_token_ids is None else 0
        arrival = draw(st.integers(0, 6))
        abort_after = draw(st.one_of(st.none(), st.none(), st.none(), st.integers(0, 12)))
        drawn.append(Job(f"job-{i}", draw(prompts), sampling.replace(min_tokens=min_tokens), arrival, abort_after))
    return drawn


BLOCK_SIZES = (1, 2, 3, 4, 8, 16)
AHEAD = (1, 2)


@st.composite
def houses(draw: st.DrawFn, block_sizes: Sequence[int] = BLOCK_SIZES, steps_ahead: Sequence[int] = AHEAD) -> House:
    """Pools from the smallest that holds any one request, so that many preempt."""
    block_size = draw(st.sampled_from(block_sizes))
    longest = -(-(max(map(len, HEADS)) + 8 + MOST_MADE) // block_size)
    return House(
        budget=draw(st.one_of(st.integers(1, 12), st.integers(13, 64), st.just(8192))),
        seats=draw(st.integers(1, 8)),
        block_size=block_size,
        num_blocks=longest + draw(st.one_of(st.just(0), st.integers(0, 6), st.integers(0, 200))),
        threshold=draw(st.one_of(st.just(0), st.integers(1, 9))),
        prefix_caching=draw(st.sampled_from([True, True, True, False])),
        ahead=draw(st.sampled_from(steps_ahead)),
    )

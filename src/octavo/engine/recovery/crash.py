"""A crash: the plans that a worker had not answered when it died, and all it takes to run them again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from octavo.engine.sequence import Running
from octavo.engine.step import Step
from octavo.errors import ConfigError, DeathCause
from octavo.messages import Chunk, Fault, WorkerConfig, WorkerReady
from octavo.sampling import SamplingParams

FILE = "crash.json"


class CrashedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request with a chunk in the plans, as it was before its first one."""

    request_id: str
    slot: int
    first_step: int
    """The plan with its first chunk."""
    num_prompt_tokens: int
    num_tokens: int
    """Its history: prompt tokens, then those made. A plan may sample more."""
    computed: int
    """Positions with keys and values: computed by earlier plans, or found in the prefix cache."""
    blocks: list[int]
    """Its block table when its first chunk runs."""
    sampling: SamplingParams
    """Without stop strings, which workers never see."""
    stop_token_ids: list[int]
    token_ids: list[int] | None = None
    """The history; None: not kept, and ids in `sampling` and `stop_token_ids` are numbered from 0."""


class CrashedPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A `StepPlan` without its admissions, which are made from the requests."""

    step: int
    """Of the worker that died, counted from 1."""
    num_tokens: int
    num_chunks: int
    num_sampled: int
    """Rows that a token is sampled for."""
    releases: list[int]
    chunks: list[Chunk]
    """Each as [slot, start, count, new blocks, whether it samples]."""
    faults: list[Fault]
    """Injected ones, each as [kind, slots]."""


class Crash(msgspec.Struct, frozen=True, kw_only=True):
    """Holds what crash.json says."""

    time: str
    """ISO 8601, UTC."""
    cause: DeathCause
    message: str
    exit_code: int | None
    """Negative: the signal. None: the process had not ended."""
    traceback: str
    """Of the worker, if it reported the fault itself."""
    output: list[str]
    """The worker's last lines."""
    step: int
    """The engine's number of the oldest plan, counted from 1 over all workers."""
    restarts: int
    """Times a worker had been started again before."""
    plans: list[CrashedPlan]
    """Those not answered, oldest first; which of them killed the worker may be unknown."""
    requests: list[CrashedRequest]
    worker: WorkerConfig
    ready: WorkerReady
    """What the worker said of device and memory when it started."""
    versions: dict[str, str]
    """Of Octavo, of Python, of what the worker computes with, and of the NVIDIA driver."""


def crashed_plans(steps: Iterable[Step]) -> list[CrashedPlan]:
    """`steps` as a crash file tells them.

    A request that ended with a result that then proved wrong has left its step, and is left out of the plan.
    """
    plans = []
    for step in steps:
        holders = step.holders()
        chunks = [chunk for chunk in step.chunks if chunk.slot in holders]
        plans.append(
            CrashedPlan(
                step=step.number,
                num_tokens=sum(chunk.count for chunk in chunks),
                num_chunks=len(chunks),
                num_sampled=sum(chunk.sample for chunk in chunks),
                releases=step.releases,
                chunks=chunks,
                faults=step.faults,
            )
        )
    return plans


def crashed_requests(steps: Iterable[Step], *, keep_prompts: bool) -> list[CrashedRequest]:
    """All that have chunks in `steps`, in the order of their first ones."""
    first: dict[Running, tuple[int, Chunk]] = {}
    later_blocks: dict[Running, int] = {}
    for step in steps:
        holders = step.holders()
        for chunk in step.chunks:
            running = holders.get(chunk.slot)
            if running is None:
                continue
            if running in first:
                later_blocks[running] += len(chunk.new_blocks)
            else:
                first[running], later_blocks[running] = (step.number, chunk), 0
    return [
        _request(running, number, chunk.start, len(running.blocks) - later_blocks[running], keep_prompts)
        for running, (number, chunk) in first.items()
    ]


def read_crash(folder: Path) -> Crash:
    """Reads the crash that the folder `folder` holds.

    Raises:
        ConfigError: it is not one that this version can read.
    """
    path = folder / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Crash)
    except OSError as exc:
        raise ConfigError("FOLDER", f"cannot read {path}: {exc.strerror}") from None
    except msgspec.MsgspecError as exc:
        raise ConfigError("FOLDER", f"{path} is not the crash file of this version: {exc}") from None


def _request(running: Running, number: int, start: int, num_blocks: int, keep_prompts: bool) -> CrashedRequest:
    sequence = running.sequence
    # The history may have grown since, by a result that proved wrong.
    tokens = sequence.tokens[: max(running.prefill_end, start + 1)].tolist()
    stop_ids = sorted(sequence.stop_ids)
    sampling = sequence.sampling.replace(stop=[], include_stop_str_in_output=False)
    return CrashedRequest(
        request_id=sequence.request_id,
        slot=running.slot,
        first_step=number,
        num_prompt_tokens=sequence.num_prompt_tokens,
        num_tokens=len(tokens),
        computed=start,
        blocks=running.blocks[:num_blocks],
        sampling=sampling if keep_prompts else _without_ids(sampling),
        stop_token_ids=stop_ids if keep_prompts else list(range(len(stop_ids))),
        token_ids=tokens if keep_prompts else None,
    )


_ID_LISTS = ("allowed_token_ids", "logprob_token_ids")


def _without_ids(sampling: SamplingParams) -> SamplingParams:
    """`sampling` with as many token ids, which say nothing."""
    return sampling.replace(
        stop_token_ids=list(range(len(sampling.stop_token_ids))),
        logit_bias=dict(enumerate(sampling.logit_bias.values())),
        bad_word_ids=[[0] * len(word) for word in sampling.bad_word_ids if len(word) > 1],
        **{name: list(range(len(ids))) for name in _ID_LISTS if (ids := getattr(sampling, name)) is not None},
    )

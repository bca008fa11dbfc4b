"""Tells of the engine: one record per step, and a snapshot at any time."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import msgspec

from octavo.errors import ConfigError, DeathCause

logger = logging.getLogger(__name__)


class StepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One step whose result is in."""

    step: int
    """Counts from 1 over all workers."""
    tokens: int
    """Tokens computed: prefill_tokens + decode_tokens."""
    chunks: list[int]
    """Tokens of each prefill chunk, in order."""
    prefill_tokens: int
    decode_tokens: int
    running: int
    """Sequences in a slot when the step was planned."""
    waiting: int
    """Sequences in the queue when the step was planned."""
    kv_usage: float
    """Share of the KV blocks held when the step was planned, 0..1."""
    elapsed_s: float
    """Seconds the worker took."""


@dataclasses.dataclass(slots=True)
class Counters:
    """Counts from the start of the engine; see `EngineStatus`."""

    steps: int = 0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    requests_replayed: int = 0
    tokens_recomputed: int = 0


class RecoveryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One recovery: from the notice of a worker's death to the first result of the next."""

    cause: DeathCause
    """Of the first death, if the next worker died before its first result."""
    restarts: int
    """Workers started: 1 unless one of them failed too."""
    requests: int
    """Requests that were running and were planned again."""
    tokens: int
    """Their computed positions, which are computed again."""
    seconds: float
    phases: dict[str, float] = {}
    """What took how many of them: ending the last worker, and the parts of the start of the next."""


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The engine at one moment. Counters count from the start."""

    alive: bool
    """False once the worker is gone: every request has been answered with an error, new ones are refused."""
    worker_pid: int
    recovering: bool
    """The worker has died, and the next has not given its first result yet. Requests wait."""
    restarts: dict[str, int]
    """Times the worker was started again, by the value of `DeathCause`."""
    running: int
    waiting: int
    kv_usage: float
    """Share of the KV blocks held by running sequences, 0..1."""
    free_blocks: int
    """KV blocks that no sequence holds (some may be cached)."""
    total_blocks: int
    cached_blocks: int
    """Of the free ones: those whose keys and values are kept for whoever has the same prefix."""
    last_step_age_s: float
    """Seconds since the last result, or since the start if there is none."""
    steps: int
    """Steps whose result is in."""
    step_token_limit: int
    """Most tokens of a step: `step_token_budget`, or fewer since workers died of large steps (see `StepSizes`)."""
    step_token_budget: int
    """`max_num_batched_tokens`."""
    preemptions: int
    prefix_queries: int
    """Prompt tokens looked up in the prefix cache."""
    prefix_hits: int
    """Prompt tokens found there."""
    prompt_tokens: int
    """Of requests that got their first token."""
    generation_tokens: int
    requests_replayed: int
    """Requests that were running when their worker died, and were planned again."""
    tokens_recomputed: int
    """Positions they had computed, which are computed again."""
    finished: dict[str, int]
    """Requests ended, by the value of `FinishReason`."""
    death: str | None = None
    """Why the worker is gone; None while it is alive."""

    @property
    def num_restarts(self) -> int:
        return sum(self.restarts.values())


class StepLog:
    """Writes each record as one JSON line; give it to the engine as `observe`. A full disk ends the log, not the engine.

    Raises:
        ConfigError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as exc:
            raise ConfigError("step_log", f"cannot write {path}: {exc.strerror}") from exc
        self._path = path
        self._encode = msgspec.json.Encoder().encode

    def __call__(self, record: StepRecord) -> None:
        if self._file.closed:
            return
        try:
            self._file.write(self._encode(record) + b"\n")
        except OSError as exc:
            logger.error("the step log %s ends here: %s", self._path, exc.strerror)
            self._file.close()

    def close(self) -> None:
        self._file.close()

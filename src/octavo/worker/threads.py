"""A step's rows on several CPU threads, each with its own part of the batch."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Semaphore

import numpy as np
import torch

from octavo.models.forward_batch import ForwardBatch
from octavo.models.kv_cache import KVCache
from octavo.ops.attention.cpu import CpuAttentionPlan
from octavo.ops.attention.layer import AttentionPlan
from octavo.worker.planned_model import PlannedModel

LEAST_ROWS = 256
"""Rows of a part, in the mean. Chosen, not tuned."""
EVEN_KEYS = 750
"""Keys that cost a row of octavo-tiny as much in attention as everything else does."""
MAX_WAITERS = 10_000
"""More than a model has layers."""


class ThreadedModel:
    """`model` with the rows of large steps shared out among threads, which run almost without waiting for each other.

    PyTorch's own threads meet in every operation, and a step has thousands: with busy cores they are slower than one
    thread (docs/log.md). A row's bits depend on its own request only, so they are the same in any part. Small steps use
    PyTorch's threads.

    Args:
        model: on a CPU.
        threads: at least 2.
    """

    def __init__(self, model: PlannedModel, threads: int) -> None:
        self._model = model
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="forward")

    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        """See `Model`."""
        bounds = share_out(batch.positions.numpy(), self._threads)
        if kv_cache.num_states:
            bounds = at_chunks(bounds, batch.chunk_starts)
        parts = len(bounds) - 1
        threads_each = self._threads // parts
        # A part that begins within a chunk reads what the one before it writes: layer by layer, it has to be there.
        written = [Semaphore(0) for _ in bounds]

        def run(part: int) -> torch.Tensor:
            torch.set_num_threads(threads_each)
            before = None if bounds[part] in batch.chunk_starts else written[part]
            relay = functools.partial(_relay, before, written[part + 1])
            try:
                rows = take(batch, bounds[part], bounds[part + 1])
                plan = self._model.plan(rows, kv_cache).map(functools.partial(_waiting, relay))
                return self._model.compute(rows, plan, kv_cache)
            except BaseException:
                written[part + 1].release(MAX_WAITERS)  # so that nobody waits for what will not come
                raise

        if parts == 1:
            return run(0)
        futures = [self._pool.submit(run, part) for part in range(parts)]
        wait(futures)  # all of them, also if one fails: none may still write to the cache when the next step does
        torch.set_num_threads(self._threads)
        return torch.cat([future.result() for future in futures])

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `Model`."""
        return self._model.logits(hidden)


def _waiting(wait_for_context: Callable[[], None], plan: AttentionPlan) -> AttentionPlan:
    """`plan` with its own wait between the writing and the reading of keys and values."""
    assert isinstance(plan, CpuAttentionPlan), "threads share out steps of a CPU"
    return dataclasses.replace(plan, wait_for_context=wait_for_context)


def _relay(before: Semaphore | None, own: Semaphore) -> None:
    """Wait for a layer of the part before, and of all before it; then say so of this part."""
    if before is not None:
        before.acquire()
    own.release()


def share_out(positions: np.ndarray, most: int) -> list[int]:
    """Bounds of as many parts as go: at most `most`, of enough rows and about equal cost; [0, T] if none do.

    positions: (T,) int64, each row's in its request.
    """
    rows = len(positions)
    parts = max(1, min(most, rows // LEAST_ROWS))
    cost = np.cumsum(EVEN_KEYS + positions)
    inner = {int(np.searchsorted(cost, cost[-1] * part // parts)) + 1 for part in range(1, parts)}
    return [0, *sorted(inner - {rows}), rows]


def at_chunks(bounds: list[int], chunk_starts: Sequence[int]) -> list[int]:
    """`bounds` moved back to where a chunk begins: the rows of a request take its state one after the other."""
    inner = {chunk_starts[bisect.bisect_right(chunk_starts, bound) - 1] for bound in bounds[1:-1]}
    return [0, *sorted(inner - {0}), bounds[-1]]


def take(batch: ForwardBatch, first: int, last: int) -> ForwardBatch:
    """Rows `first` .. `last` - 1 of `batch`, as views of its tensors; the first and last chunk may be cut."""
    starts = batch.chunk_starts
    begin, end = bisect.bisect_right(starts, first) - 1, bisect.bisect_left(starts, last)
    bounds = [min(max(start, first), last) for start in starts[begin : end + 1]]
    later = [start - bound for start, bound in zip(starts[begin + 1 : end + 1], bounds[1:], strict=True)]
    counts = [after - before for before, after in itertools.pairwise(bounds)]
    output_counts = None
    if batch.output_counts is not None:
        wanted = zip(batch.output_counts[begin:end], later, counts, strict=True)
        output_counts = tuple(min(max(output - behind, 0), count) for output, behind, count in wanted)
    return ForwardBatch(
        token_ids=batch.token_ids[first:last],
        positions=batch.positions[first:last],
        slot_mapping=batch.slot_mapping[first:last],
        block_tables=batch.block_tables[begin:end],
        chunk_starts=tuple(bound - first for bound in bounds),
        context_lens=tuple(n - behind for n, behind in zip(batch.context_lens[begin:end], later, strict=True)),
        states=batch.states[begin:end],
        output_counts=output_counts,
    )

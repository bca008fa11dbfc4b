"""A step's chunks on several CPU threads, each with its own part of the batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from octavo.models.interface import ForwardBatch, KVCache
from octavo.worker.runner import Model

LEAST_ROWS = 256
"""Rows of a part. Chosen, not tuned."""
UNEVEN = 1.5
"""A part of more than so many times its share would keep the others waiting."""


class ThreadedModel:
    """`model` with the chunks of large steps shared out among threads, which wait for each other once a step.

    PyTorch's own threads meet in every operation, and a step has thousands: on two quiet cores 8 prompts of 1001 tokens
    take 676 ms with them, 533 ms shared out and 961 ms on one thread; with busy cores they are slower than one thread. A
    row's bits depend on its own request only, so they are the same in any part. Small steps use PyTorch's threads.

    Args:
        model: on a CPU.
        threads: at least 2.
    """

    def __init__(self, model: Model, threads: int) -> None:
        self._model = model
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="forward")

    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        """See `Model`."""
        bounds = share_out(batch.chunk_starts, self._threads)
        threads_each = self._threads // (len(bounds) - 1)

        def run(part: ForwardBatch) -> torch.Tensor:
            torch.set_num_threads(threads_each)
            return self._model.forward(part, kv_cache)

        if len(bounds) == 2:
            return run(batch)
        parts = [take(batch, *pair) for pair in itertools.pairwise(bounds)]
        hidden = torch.cat(list(self._pool.map(run, parts)))
        torch.set_num_threads(self._threads)
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `Model`."""
        return self._model.logits(hidden)


def share_out(chunk_starts: Sequence[int], most: int) -> list[int]:
    """Bounds of as many runs of chunks as go: at most `most`, of about equal and enough rows; [0, S] if none do.

    chunk_starts: see `ForwardBatch`.
    """
    chunks, rows = len(chunk_starts) - 1, chunk_starts[-1]
    for count in range(min(most, chunks, rows // LEAST_ROWS), 1, -1):
        share = rows / count
        inner = [min(range(chunks + 1), key=lambda at: abs(chunk_starts[at] - share * i)) for i in range(1, count)]
        bounds = [0, *inner, chunks]
        sizes = [chunk_starts[end] - chunk_starts[begin] for begin, end in itertools.pairwise(bounds)]
        if min(sizes) >= LEAST_ROWS and max(sizes) <= UNEVEN * share:
            return bounds
    return [0, chunks]


def take(batch: ForwardBatch, begin: int, end: int) -> ForwardBatch:
    """Chunks `begin` .. `end` - 1 of `batch`, as views of its tensors."""
    first, last = batch.chunk_starts[begin], batch.chunk_starts[end]
    return ForwardBatch(
        token_ids=batch.token_ids[first:last],
        positions=batch.positions[first:last],
        slot_mapping=batch.slot_mapping[first:last],
        block_tables=batch.block_tables[begin:end],
        chunk_starts=tuple(start - first for start in batch.chunk_starts[begin : end + 1]),
        context_lens=batch.context_lens[begin:end],
        tails=None if batch.tails is None else batch.tails[begin:end],
    )

"""From a checked plan to the tensors of one forward pass, on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from octavo.messages import Chunk
from octavo.models.forward_batch import DeviceTokens, ForwardBatch
from octavo.ops.delta_net import StateUse
from octavo.worker.slots import UNKNOWN, Slots


def make_batch(
    chunks: Sequence[Chunk],
    slots: Slots,
    *,
    block_size: int,
    sampled: torch.Tensor | None = None,
    output_counts: tuple[int, ...] | None = None,
) -> ForwardBatch:
    """All chunks as one batch, in the order of the plan.

    Args:
        chunks: at least one, checked by `Slots.apply`.
        slots: their histories and block tables.
        block_size: tokens per KV block.
        sampled: (slots,) int64 on the model's device, the last token sampled for each; needed if a history has a token
            that the host does not know.
        output_counts: see `ForwardBatch`.

    Returns:
        A batch of new tensors on the host that nothing else holds.
    """
    token_ids: list[int] = []
    unknown: list[tuple[int, int]] = []
    for chunk in chunks:
        token_ids += slots[chunk.slot].tokens[chunk.start : chunk.start + chunk.count]
        if token_ids[-1] == UNKNOWN:
            unknown.append((len(token_ids) - 1, chunk.slot))
    indices = np.array([chunk.slot for chunk in chunks], dtype=np.int64)
    starts = np.array([chunk.start for chunk in chunks], dtype=np.int64)
    counts = np.array([chunk.count for chunk in chunks], dtype=np.int64)
    chunk_starts = np.concatenate([[0], np.cumsum(counts)])
    positions = np.arange(len(token_ids), dtype=np.int64) - np.repeat(chunk_starts[:-1] - starts, counts)
    blocks = slots.tables[np.repeat(indices, counts), positions // block_size].astype(np.int64)
    assert blocks.min() >= 0, "Slots.apply checks that every position has a block"
    return ForwardBatch(
        token_ids=torch.tensor(token_ids, dtype=torch.int64).clamp_(min=0),
        positions=torch.from_numpy(positions),
        slot_mapping=torch.from_numpy(blocks * block_size + positions % block_size),
        block_tables=torch.from_numpy(slots.tables[indices]),
        chunk_starts=tuple(chunk_starts.tolist()),
        context_lens=tuple((starts + counts).tolist()),
        states=tuple(_state_use(chunk, slots) for chunk in chunks),
        output_counts=output_counts,
        device_tokens=_device_tokens(unknown, sampled) if unknown else None,
    )


def _state_use(chunk: Chunk, slots: Slots) -> StateUse:
    """Each slot has the state of its number; behind those of all slots are the snapshots."""
    source, snapshots, use = chunk.slot if chunk.start else -1, len(slots.tables), slots[chunk.slot].snapshots
    if use is None:
        return StateUse(source, chunk.slot)
    source = source if use.restore < 0 else snapshots + use.restore
    return StateUse(source, chunk.slot, -1 if use.keep < 0 else snapshots + use.keep, use.keep_after)


def _device_tokens(places: Sequence[tuple[int, int]], sampled: torch.Tensor | None) -> DeviceTokens:
    """The tokens of (row, slot) `places`, from the last `sampled` one of each slot."""
    assert sampled is not None
    return DeviceTokens(torch.tensor(places).T.contiguous(), sampled)

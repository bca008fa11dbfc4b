"""A model that is exact: integers in float64, so no order of summation matters; it reads its context through the KV cache.

`toy_logits` says what it gives for a history, without cache, batch or blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from octavo.messages import WorkerConfig
from octavo.models.forward_batch import ForwardBatch
from octavo.models.kv_cache import KVCache
from octavo.worker.runner import Runner

VOCAB = 61
HIDDEN = 8
POISON = 60
"""A token whose value in the cache is NaN."""

_generator = torch.Generator().manual_seed(5)
EMBEDDING = torch.randint(-4, 5, (VOCAB, HIDDEN), generator=_generator).double()
HEAD = torch.randint(-3, 4, (HIDDEN, VOCAB), generator=_generator).double() / 8


class ToyModel:
    """hidden[p] = the sum over q <= p of (q % 3 + 1) * embedding[token q], wrapped to -8..7; NaN from a POISON on."""

    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        values = kv_cache.layers[0][1].view(-1, HIDDEN)
        weight = (batch.positions % 3 + 1).double()[:, None]
        value = torch.where(batch.token_ids[:, None] == POISON, torch.nan, weight * EMBEDDING[batch.token_ids])
        values[batch.slot_mapping] = value.to(torch.bfloat16)
        hidden = torch.empty((len(batch.token_ids), HIDDEN), dtype=torch.float64)
        for s, length in enumerate(batch.context_lens):
            first, last = batch.chunk_starts[s], batch.chunk_starts[s + 1]
            positions = torch.arange(length)
            blocks = batch.block_tables[s].long()[positions // kv_cache.block_size]
            context = values[blocks * kv_cache.block_size + positions % kv_cache.block_size].double()
            hidden[first:last] = context.cumsum(0)[length - (last - first) :]
        hidden = (hidden + 8).remainder(16) - 8
        kept = batch.output_rows()
        return (hidden if kept is None else hidden[kept]).to(torch.bfloat16)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return (hidden.double() @ HEAD).float()


def toy_logits(token_ids: Sequence[int]) -> torch.Tensor:
    """(V,) float32: the logits after `token_ids`."""
    weight = (torch.arange(len(token_ids)) % 3 + 1).double()[:, None]
    total = (weight * EMBEDDING[list(token_ids)]).sum(0)
    return (((total + 8).remainder(16) - 8) @ HEAD).float()


def toy_config(**changes: Any) -> WorkerConfig:
    settings: dict[str, Any] = {
        "model": "toy",
        "max_model_len": 40,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 64,
        "block_size": 4,
        "num_blocks": 30,
    }
    return WorkerConfig(**settings | changes)


def toy_cache(config: WorkerConfig) -> KVCache:
    """Poisoned with NaN: a position read before it is written shows."""
    assert config.num_blocks is not None
    shape = (2, config.num_blocks, config.block_size, 1, HIDDEN)
    return KVCache([torch.full(shape, torch.nan, dtype=torch.bfloat16)])


def toy_runner(**changes: Any) -> Runner:
    config = toy_config(**changes)
    return Runner(ToyModel(), toy_cache(config), config, vocab_size=VOCAB)

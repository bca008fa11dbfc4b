"""Chunks shared out among threads: the parts are even, and a row's bits are those of the whole batch."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import octavo
from octavo.config import ModelConfig
from octavo.models.interface import ForwardBatch, KVCache
from octavo.models.load import load_model
from octavo.models.operations import CpuOperations
from octavo.worker.threads import LEAST_ROWS, UNEVEN, ThreadedModel, share_out, take

CPU = torch.device("cpu")
TINY = Path(octavo.__file__).parent / "assets/octavo-tiny"
BLOCK = 16


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=40), st.integers(2, 8))
def test_shares_are_whole_chunks_of_about_equal_rows(counts: list[int], threads: int) -> None:
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    bounds = share_out(starts, threads)
    assert (bounds[0], bounds[-1]) == (0, len(counts))
    assert bounds == sorted(set(bounds))
    assert len(bounds) - 1 <= threads
    if len(bounds) > 2:
        rows = [starts[b] - starts[a] for a, b in itertools.pairwise(bounds)]
        assert min(rows) >= LEAST_ROWS
        assert max(rows) <= UNEVEN * starts[-1] / len(rows)


def test_equal_chunks_are_shared_out_evenly() -> None:
    assert share_out(range(0, 9009, 1001), 2) == [0, 4, 8]
    assert share_out(range(0, 9009, 1001), 4) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("counts", [[2000], [4000, 100], [1] * 200], ids=["one chunk", "uneven", "few rows"])
def test_what_cannot_be_shared_stays_whole(counts: list[int]) -> None:
    starts = [sum(counts[:i]) for i in range(len(counts) + 1)]
    assert share_out(starts, 2) == [0, len(counts)]


WIDTH = 32
"""Blocks of each request."""


def batch_of(contexts: list[tuple[int, int]], seed: int) -> ForwardBatch:
    """Chunks (start, count) of requests of their own; block tables one after the other."""
    generator = torch.Generator().manual_seed(seed)
    tables = torch.arange(len(contexts) * WIDTH, dtype=torch.int32).view(-1, WIDTH)
    positions = torch.cat([torch.arange(start, start + count) for start, count in contexts])
    owners = torch.repeat_interleave(torch.arange(len(contexts)), torch.tensor([count for _, count in contexts]))
    blocks = tables[owners, positions // BLOCK].long()
    rows = [0]
    for _, count in contexts:
        rows.append(rows[-1] + count)
    return ForwardBatch(
        token_ids=torch.randint(0, 256, (rows[-1],), generator=generator),
        positions=positions,
        slot_mapping=blocks * BLOCK + positions % BLOCK,
        block_tables=tables,
        chunk_starts=tuple(rows),
        context_lens=tuple(start + count for start, count in contexts),
    )


def cache_of(config: ModelConfig) -> KVCache:
    """Blocks for four requests."""
    return KVCache.allocate(
        num_layers=config.num_hidden_layers,
        num_blocks=4 * WIDTH,
        block_size=BLOCK,
        num_kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        device=CPU,
    )


class Swapped(ThreadedModel):
    """Every chunk has its neighbour's block table."""

    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        return super().forward(dataclasses.replace(batch, block_tables=batch.block_tables.roll(1, dims=0)), kv_cache)


@pytest.mark.parametrize("tails", [None, (1, 128, 5, 1)], ids=["all rows", "some rows"])
def test_rows_have_the_bits_of_the_whole_batch(tails: tuple[int, ...] | None) -> None:
    loaded = load_model(TINY, load_format="auto", device=CPU, seed=0, operations=CpuOperations())
    past = batch_of([(0, 96), (0, 200), (0, 33), (0, 7)], 0)
    now = dataclasses.replace(batch_of([(96, 300), (200, 128), (33, 190), (7, 1)], 1), tails=tails)
    assert len(share_out(now.chunk_starts, 2)) == 3
    results = []
    for model in (loaded.model, ThreadedModel(loaded.model, 2), Swapped(loaded.model, 2)):
        cache = cache_of(loaded.config)
        loaded.model.forward(past, cache)
        results.append(model.forward(now, cache))
    torch.set_num_threads(1)
    whole, shared, swapped = results
    assert torch.equal(whole, shared)
    assert not torch.equal(whole, swapped)


def test_a_small_step_on_pytorchs_threads_has_the_same_bits() -> None:
    loaded = load_model(TINY, load_format="auto", device=CPU, seed=0, operations=CpuOperations())
    now = batch_of([(0, 150), (0, 40), (0, 1)], 2)
    assert share_out(now.chunk_starts, 2) == [0, 3]
    results = []
    for model in (loaded.model, ThreadedModel(loaded.model, 2)):
        cache = cache_of(loaded.config)
        torch.set_num_threads(1)
        results.append(model.forward(now, cache))
    torch.set_num_threads(1)
    assert torch.equal(*results)


def test_take_gives_views() -> None:
    batch = batch_of([(0, 20), (5, 30), (16, 1)], 0)
    part = take(batch, 1, 3)
    assert part.chunk_starts == (0, 30, 31)
    assert part.context_lens == (35, 17)
    assert torch.equal(part.positions, batch.positions[20:])
    assert part.token_ids.data_ptr() == batch.token_ids[20:].data_ptr()

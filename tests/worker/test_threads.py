"""Chunks shared out among threads: the parts are even, and a row's bits are those of the whole batch."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import octavo
from models.toy import random_tensors, raw_qwen3_next, write_checkpoint
from octavo.models.config import ModelConfig
from octavo.models.cpu_operations import CpuOperations
from octavo.models.decoder.model import DecoderPlan
from octavo.models.forward_batch import ForwardBatch
from octavo.models.kv_cache import KVCache
from octavo.models.load import load_model
from octavo.models.registry import read_config
from octavo.ops.attention import CpuAttentionPlan, plan_cpu_attention
from octavo.ops.delta_net import StateUse
from octavo.worker.threads import EVEN_KEYS, LEAST_ROWS, ThreadedModel, at_chunks, share_out, take
from waits import BOUND_S

CPU = torch.device("cpu")
TINY = Path(octavo.__file__).parent / "assets/octavo-tiny"
BLOCK = 16


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 3000)), min_size=1, max_size=20), st.integers(2, 8))
def test_shares_cost_about_the_same(chunks: list[tuple[int, int]], threads: int) -> None:
    """(start, count) of each chunk: the parts differ by less than two of the dearest rows."""
    positions = np.concatenate([np.arange(start, start + count) for start, count in chunks])
    bounds = share_out(positions, threads)
    assert bounds == sorted(set(bounds))
    assert (bounds[0], bounds[-1]) == (0, len(positions))
    assert len(bounds) - 1 == max(1, min(threads, len(positions) // LEAST_ROWS))
    cost = EVEN_KEYS + positions
    parts = [cost[before:after].sum() for before, after in itertools.pairwise(bounds)]
    assert max(parts) - min(parts) < 2 * cost.max()


def test_shares_are_even() -> None:
    assert share_out(np.tile(np.arange(1001), 8), 2) == [0, 4004, 8008]
    assert share_out(np.full(4000, 511), 4) == [0, 1000, 2000, 3000, 4000]
    assert share_out(np.arange(2 * LEAST_ROWS - 1), 2) == [0, 2 * LEAST_ROWS - 1]
    assert share_out(np.arange(0), 2) == [0, 0]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12),
    st.data(),
)
def test_parts_are_the_batch(chunks: list[tuple[int, int, int]], data: st.DataObject) -> None:
    """(start, count, tail) of each chunk: a part says of its rows what the batch says of them."""
    whole = dataclasses.replace(
        batch_of([(start, count) for start, count, _ in chunks], 0),
        output_counts=tuple(min(tail, count) for _, count, tail in chunks),
    )
    rows = whole.chunk_starts[-1]
    cut = data.draw(st.integers(0, rows))
    parts = [take(whole, first, last) for first, last in ((0, cut), (cut, rows)) if first < last]
    assert [told for part in parts for told in tell(part)] == tell(whole)


def tell(batch: ForwardBatch) -> list[tuple[int, int, int, bool]]:
    """Position, first block, slot and whether it is wanted, of every row; contexts end with the last row."""
    told = []
    wanted = batch.output_rows()
    kept = set(range(batch.chunk_starts[-1])) if wanted is None else set(wanted.tolist())
    for chunk, (begin, end) in enumerate(itertools.pairwise(batch.chunk_starts)):
        for row in range(begin, end):
            position = int(batch.positions[row])
            assert position == batch.context_lens[chunk] - (end - row)
            told.append((position, int(batch.block_tables[chunk, 0]), int(batch.slot_mapping[row]), row in kept))
    return told


WIDTH = 32
"""Blocks of each request."""


def batch_of(contexts: list[tuple[int, int]], seed: int, width: int = WIDTH) -> ForwardBatch:
    """Chunks (start, count) of requests of their own; block tables one after the other."""
    generator = torch.Generator().manual_seed(seed)
    tables = torch.arange(len(contexts) * width, dtype=torch.int32).view(-1, width)
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


def cache_of(config: ModelConfig, width: int = WIDTH) -> KVCache:
    """Blocks for four requests."""
    return KVCache.allocate(config.cache, num_blocks=4 * width, block_size=BLOCK, device=CPU)


class Swapped(ThreadedModel):
    """Every chunk has its neighbour's block table."""

    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        return super().forward(dataclasses.replace(batch, block_tables=batch.block_tables.roll(1, dims=0)), kv_cache)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize(
    "counts", [None, (1, 128, 5, 1), (300, 1, 190, 1)], ids=["all rows", "few rows", "some chunks"]
)
def test_rows_have_the_bits_of_the_whole_batch(counts: tuple[int, ...] | None, threads: int) -> None:
    """Whose first chunk, or first two, are cut."""
    loaded = load_model(TINY, load_format="auto", device=CPU, seed=0, operations=CpuOperations())
    past = batch_of([(0, 96), (0, 90), (0, 33), (0, 7)], 0)
    now = dataclasses.replace(batch_of([(96, 400), (90, 228), (33, 190), (7, 1)], 1), output_counts=counts)
    assert len(share_out(now.positions.numpy(), threads)) == threads + 1
    results = []
    for model in (loaded.model, ThreadedModel(loaded.model, threads), Swapped(loaded.model, threads)):
        cache = cache_of(loaded.config)
        loaded.model.forward(past, cache)
        results.append(model.forward(now, cache))
    torch.set_num_threads(1)
    whole, shared, swapped = results
    assert torch.equal(whole, shared)
    assert not torch.equal(whole, swapped)


def test_one_prompt_on_three_threads_has_the_same_bits() -> None:
    loaded = load_model(TINY, load_format="auto", device=CPU, seed=0, operations=CpuOperations())
    width = 3 * LEAST_ROWS // BLOCK
    now = dataclasses.replace(batch_of([(0, 3 * LEAST_ROWS)], 3, width), output_counts=(1,))
    results = []
    for model in (loaded.model, ThreadedModel(loaded.model, 3)):
        results.append(model.forward(now, cache_of(loaded.config, width)))
    torch.set_num_threads(1)
    assert torch.equal(*results)


class Slow:
    """A model of three layers, whose first part is the last to write each of them, or fails to."""

    hidden_size = 1

    def __init__(self, fails: bool) -> None:
        self._fails = fails
        self.events: list[tuple[str, int, int]] = []
        """(what, layer, first position of the part)"""
        self._written = [threading.Semaphore(0) for _ in range(3)]
        """By layer: by parts other than the first."""

    def plan(self, batch: ForwardBatch, kv_cache: KVCache) -> DecoderPlan:
        plan = plan_cpu_attention(
            batch.block_tables, batch.chunk_starts, batch.context_lens, block_size=BLOCK, heads_per_kv_head=1
        )
        return DecoderPlan(plan, None, plan)

    def compute(self, batch: ForwardBatch, plan: DecoderPlan, kv_cache: KVCache) -> torch.Tensor:
        assert isinstance(plan.all_rows, CpuAttentionPlan)
        first = int(batch.positions[0])
        for layer in range(3):
            if not first:
                for _ in range(2):
                    assert self._written[layer].acquire(timeout=BOUND_S)
                if self._fails:
                    raise ZeroDivisionError
            self.events.append(("writes", layer, first))
            if first:
                self._written[layer].release()
            plan.all_rows.wait_for_context()
            self.events.append(("reads", layer, first))
        return torch.zeros(len(batch.positions), 1)

    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        return self.compute(batch, self.plan(batch, kv_cache), kv_cache)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def test_a_part_reads_a_layer_when_all_before_it_have_written() -> None:
    model = Slow(fails=False)
    batch = batch_of([(0, 3 * LEAST_ROWS)], 3, 3 * LEAST_ROWS // BLOCK)
    ThreadedModel(model, 3).forward(batch, KVCache([]))
    torch.set_num_threads(1)
    firsts = sorted({first for _, _, first in model.events})
    assert len(firsts) == 3
    for layer, (before, after) in itertools.product(range(3), itertools.combinations(firsts, 2)):
        assert model.events.index(("writes", layer, before)) < model.events.index(("reads", layer, after))
    assert model.events.index(("writes", 0, firsts[1])) < model.events.index(("writes", 0, 0))


def test_an_error_in_one_part_is_the_error_of_the_step() -> None:
    """Nobody waits for the part that failed."""
    batch = batch_of([(0, 3 * LEAST_ROWS)], 3, 3 * LEAST_ROWS // BLOCK)
    with pytest.raises(ZeroDivisionError):
        ThreadedModel(Slow(fails=True), 3).forward(batch, KVCache([]))
    torch.set_num_threads(1)


class Lingering(Slow):
    """A model whose first part fails at once, and whose others take their time."""

    def compute(self, batch: ForwardBatch, plan: DecoderPlan, kv_cache: KVCache) -> torch.Tensor:
        first = int(batch.positions[0])
        if not first:
            raise ZeroDivisionError
        time.sleep(0.2)
        self.events.append(("ends", 0, first))
        return torch.zeros(len(batch.positions), 1)


def test_an_error_is_told_when_no_part_computes_any_more() -> None:
    """Or they would go on writing to the cache that the next step uses."""
    model = Lingering(fails=True)
    batch = batch_of([(0, 3 * LEAST_ROWS)], 3, 3 * LEAST_ROWS // BLOCK)
    with pytest.raises(ZeroDivisionError):
        ThreadedModel(model, 3).forward(batch, KVCache([]))
    assert len(model.events) == 2
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)


def test_a_small_step_on_pytorchs_threads_has_the_same_bits() -> None:
    loaded = load_model(TINY, load_format="auto", device=CPU, seed=0, operations=CpuOperations())
    now = batch_of([(0, 150), (0, 40), (0, 1)], 2)
    assert share_out(now.positions.numpy(), 2) == [0, 191]
    results = []
    for model in (loaded.model, ThreadedModel(loaded.model, 2)):
        cache = cache_of(loaded.config)
        torch.set_num_threads(1)
        results.append(model.forward(now, cache))
    torch.set_num_threads(1)
    assert torch.equal(*results)


@pytest.mark.parametrize("threads", [2, 3])
def test_steps_of_a_model_with_states_are_cut_at_chunks_alone(threads: int, tmp_path: Path) -> None:
    raw = raw_qwen3_next(num_hidden_layers=2, full_attention_interval=2, vocab_size=256)
    write_checkpoint(tmp_path, raw, random_tensors(read_config(raw), 3))
    loaded = load_model(tmp_path, load_format="auto", device=CPU, seed=0, progress=False)
    uses = tuple(StateUse(-1, state) for state in range(4))
    now = dataclasses.replace(batch_of([(0, 330), (0, 200), (0, 270), (0, 7)], 1), states=uses)
    results = []
    for model in (loaded.model, ThreadedModel(loaded.model, threads)):
        cache = KVCache.allocate(loaded.config.cache, num_blocks=4 * WIDTH, num_states=4, block_size=BLOCK, device=CPU)
        results.append((model.forward(now, cache), cache.layers[0].clone()))
    torch.set_num_threads(1)
    (whole, states), (shared, same_states) = results
    assert torch.equal(whole, shared)
    assert torch.equal(states, same_states)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.data())
def test_bounds_at_chunks(counts: list[int], data: st.DataObject) -> None:
    starts = list(itertools.accumulate(counts, initial=0))
    inner = data.draw(st.lists(st.integers(1, starts[-1]), max_size=4))
    bounds = at_chunks([0, *sorted(set(inner) - {starts[-1]}), starts[-1]], starts)
    assert bounds == sorted(set(bounds))
    assert (bounds[0], bounds[-1]) == (0, starts[-1])
    assert set(bounds) <= set(starts)


def test_take_gives_views() -> None:
    batch = batch_of([(0, 20), (5, 30), (16, 1)], 0)
    part = take(batch, 24, 51)
    assert part.chunk_starts == (0, 26, 27)
    assert part.context_lens == (35, 17)
    assert torch.equal(part.positions, batch.positions[24:])
    assert part.token_ids.data_ptr() == batch.token_ids[24:].data_ptr()

"""A model on the GPU: each row as if its request were alone, in any company, chunks, blocks, and by itself as a decode."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from layer import CUDA
from models.toy import make_batch, raw_config
from octavo.models.cuda_operations import CudaOperations
from octavo.models.kv_cache import KVCache
from octavo.models.load import LoadedModel, load_model
from octavo.models.operations import Operations
from octavo.ops.activations import FP8, Activations, Unscaled
from octavo.ops.formats import LinearWeight
from octavo.ops.inputs import Inputs
from octavo.ops.linear.layer import Linear
from octavo.ops.norm.cuda import CudaAddNorm
from octavo.worker.graphs import CudaCapture, GraphedModel, graph_sizes

pytestmark = pytest.mark.gpu
VOCAB = 4096
CONFIG = raw_config(
    vocab_size=VOCAB,
    hidden_size=2048,
    moe_intermediate_size=768,
    num_hidden_layers=2,
    num_attention_heads=32,
    num_key_value_heads=4,
    head_dim=128,
    num_experts=128,
    num_experts_per_tok=8,
    max_position_embeddings=8192,
)
"""Two layers of Qwen3-30B-A3B's shape with a small vocabulary."""
MAX_TOKENS = 8192
COLUMNS = 150
"""Of the block tables that graphs read; 2050 tokens take 129 blocks of 16."""
LENGTHS = [1, 2, 63, 64, 65, 127, 300, 511, 512, 513, 700, 1001, 1025, 1600, 2050]


def load(folder: Path, operations: Operations) -> LoadedModel:
    return load_model(folder, load_format="dummy", device=CUDA, seed=7, operations=operations, progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    (made / "config.json").write_text(json.dumps(CONFIG))
    return made


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load(folder, CudaOperations(max_tokens=MAX_TOKENS))


def tokens(seed: int, count: int) -> list[int]:
    return torch.randint(VOCAB, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def cache_of(loaded: LoadedModel, num_blocks: int, block_size: int) -> KVCache:
    """Full of NaN: what is not written must not be seen."""
    config = loaded.config
    cache = KVCache.allocate(config.cache, num_blocks=num_blocks, block_size=block_size, device=CUDA)
    for layer in cache.layers:
        layer.fill_(torch.nan)
    return cache


Chunks = list[tuple[list[int], int, int, list[int]]]


def forward(
    loaded: LoadedModel, cache: KVCache, chunks: Chunks, graphed: GraphedModel | None = None
) -> list[torch.Tensor]:
    """Hidden states of each chunk (tokens of the request, first position, count, block ids), in a graph or without."""
    columns = COLUMNS if graphed else max(len(blocks) for *_, blocks in chunks) + 1
    batch = make_batch(chunks, block_size=cache.block_size, columns=columns)
    hidden = graphed.forward(batch, cache) if graphed else loaded.model.forward(batch.to(CUDA), cache)
    return list(hidden.split([count for _, _, count, _ in chunks]))


def graphs_of(loaded: LoadedModel, cache: KVCache, most: int = 4096) -> GraphedModel:
    """The model with graphs of steps on `cache`."""
    return GraphedModel(
        loaded.model,
        cache,
        max_chunks=256,
        columns=COLUMNS,
        sizes=graph_sizes(most),
        capture=CudaCapture(),
    )


def alone(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    blocks = list(range(-(-len(ids) // 16)))
    return forward(loaded, cache_of(loaded, len(blocks), 16), [(ids, 0, len(ids), blocks)])[0]


@pytest.fixture(scope="module")
def expected(loaded: LoadedModel) -> list[torch.Tensor]:
    """Of a request of each length, alone; all finite and not all the same."""
    rows = [alone(loaded, tokens(i, length)) for i, length in enumerate(LENGTHS)]
    for hidden in rows:
        assert hidden.isfinite().all()
    assert rows[-1].float().std(0).min() > 0
    return rows


def different_rows(
    loaded: LoadedModel, expected: list[torch.Tensor], block_size: int, seed: int, *, graphs: bool = False
) -> int:
    """Rows with other bits than alone, over a drawn schedule that moves every request to its end."""
    pick = random.Random(1000 * seed + block_size)
    requests = [tokens(i, length) for i, length in enumerate(LENGTHS)]
    per_request = [-(-length // block_size) for length in LENGTHS]
    free = list(range(sum(per_request) + 5))
    pick.shuffle(free)
    tables = [[free.pop() for _ in range(count)] for count in per_request]
    cache = cache_of(loaded, sum(per_request) + 5, block_size)
    graphed = graphs_of(loaded, cache) if graphs else None
    done, wrong = [0] * len(LENGTHS), 0
    while left := [i for i, length in enumerate(LENGTHS) if done[i] < length]:
        chosen = pick.sample(left, pick.randint(1, len(left)))
        counts = [min(pick.choice([1, 1, 1, 2, 9, 40, 184, 522, 1001]), LENGTHS[i] - done[i]) for i in chosen]
        chunks = [(requests[i], done[i], count, tables[i]) for i, count in zip(chosen, counts, strict=True)]
        for i, count, rows in zip(chosen, counts, forward(loaded, cache, chunks, graphed), strict=True):
            wrong += int((rows != expected[i][done[i] : done[i] + count]).any(-1).sum())
            done[i] += count
    return wrong


@pytest.mark.parametrize("graphs", [False, True], ids=["launched", "graphs"])
@pytest.mark.parametrize("block_size", [16, 64])
@pytest.mark.parametrize("seed", range(4), ids=lambda seed: f"draw{seed}")
def test_any_chunks_blocks_and_neighbours(
    loaded: LoadedModel, expected: list[torch.Tensor], block_size: int, seed: int, graphs: bool
) -> None:
    assert different_rows(loaded, expected, block_size, seed, graphs=graphs) == 0


def test_all_graphs_are_recorded_without_a_step(loaded: LoadedModel, expected: list[torch.Tensor]) -> None:
    """`prepare_next` leaves every slot of the cache as it was; then each size gives the bits of rows alone."""
    cache = cache_of(loaded, 300, 16)
    graphed = graphs_of(loaded, cache, most=512)
    while graphed.prepare_next():
        pass
    assert all(layer.isnan().all() for layer in cache.layers)
    which = LENGTHS.index(513)
    ids = tokens(which, 513)
    for count in (1, 2, 3, 5, 9, 63, 64, 65, 127, 500, 511, 512):
        chunks: Chunks = [(ids, 0, count, list(range(40)))]
        assert torch.equal(forward(loaded, cache, chunks, graphed)[0], expected[which][:count]), count


def test_graphs_among_bad_rows(loaded: LoadedModel, expected: list[torch.Tensor]) -> None:
    """What a step left in the memory of a graph, NaN everywhere, does not reach the next, shorter one."""
    cache = cache_of(loaded, 300, 16)
    graphed = graphs_of(loaded, cache, most=64)
    embedding = vars(loaded.model)["_embedding"]
    kept = embedding[0].clone()
    which = LENGTHS.index(63)
    try:
        embedding[0] = torch.nan
        bad = forward(loaded, cache, [([0] * 64, 0, 64, [100, 101, 102, 103])], graphed)[0]
        assert bad.isnan().all()
    finally:
        embedding[0] = kept
    for count in (63, 57):
        chunks: Chunks = [(tokens(which, 63), 0, count, list(range(4)))]
        assert torch.equal(forward(loaded, cache, chunks, graphed)[0], expected[which][:count])


@pytest.mark.parametrize("graphs", [False, True], ids=["launched", "graphs"])
@pytest.mark.parametrize("count", [1, 3, 8, 17, 64, 200])
def test_the_last_token_as_a_decode_among_others(
    loaded: LoadedModel, expected: list[torch.Tensor], count: int, graphs: bool
) -> None:
    """The end of every request by itself, in batches of `count` decodes."""
    requests = [tokens(i, length) for i, length in enumerate(LENGTHS)]
    tables, used = [], 0
    for length in LENGTHS:
        tables.append(list(range(used, used - (-length // 16))))
        used += len(tables[-1])
    cache = cache_of(loaded, used, 16)
    for ids, table in zip(requests, tables, strict=True):
        forward(loaded, cache, [(ids, 0, len(ids), table)])
    which = [i % len(LENGTHS) for i in range(count)]
    chunks = [(requests[i], LENGTHS[i] - 1, 1, tables[i]) for i in which]
    graphed = graphs_of(loaded, cache) if graphs else None
    for i, rows in zip(which, forward(loaded, cache, chunks, graphed), strict=True):
        assert torch.equal(rows[0], expected[i][-1]), LENGTHS[i]


def test_logits_at_any_number_of_rows(loaded: LoadedModel, expected: list[torch.Tensor]) -> None:
    together = loaded.model.logits(expected[-1])
    for rows in (slice(0, 1), slice(2049, 2050), slice(5, 9), slice(100, 117), slice(7, 71), slice(3, 300)):
        assert torch.equal(loaded.model.logits(expected[-1][rows]), together[rows])


def test_eight_prompts_of_1001_tokens_and_184_of_a_ninth(loaded: LoadedModel, expected: list[torch.Tensor]) -> None:
    """8192 tokens in one step, the batch of the public failure."""
    which, ids = LENGTHS.index(1001), tokens(LENGTHS.index(1001), 1001)
    cache = cache_of(loaded, 9 * 63, 16)
    chunks = [(ids, 0, 1001 if i < 8 else 184, list(range(63 * i, 63 * i + 63))) for i in range(9)]
    for rows in forward(loaded, cache, chunks):
        assert torch.equal(rows, expected[which][: len(rows)])


def test_a_bad_token_stays_with_its_request(loaded: LoadedModel, expected: list[torch.Tensor]) -> None:
    embedding = vars(loaded.model)["_embedding"]
    which = LENGTHS.index(300)
    bad = [t if t != 0 else 1 for t in tokens(99, 300)]
    bad[150] = 0
    good = tokens(which, 300)
    if 0 in good:
        pytest.fail("draw another request: token 0 is the bad one")
    kept = embedding[0].clone()
    try:
        embedding[0, 5] = torch.nan
        cache = cache_of(loaded, 40, 16)
        chunks: Chunks = [(bad, 0, 300, list(range(20))), (good, 0, 300, list(range(20, 40)))]
        out = forward(loaded, cache, chunks)
        assert out[0][150:].isnan().any(-1).all()
        assert out[0][:150].isfinite().all()
        assert torch.equal(out[1], expected[which])
    finally:
        embedding[0] = kept


class BatchScaled:
    """A mutant: activations rounded with one scale for the whole batch, as per-tensor dynamic FP8 does."""

    def __init__(self, linear: Linear) -> None:
        self._linear = linear

    def __call__(self, x: torch.Tensor | Inputs) -> torch.Tensor:
        return self._linear(self._coarse(Inputs.of(x).bf16))

    def float32(self, x: torch.Tensor | Inputs) -> torch.Tensor:
        return self._linear.float32(self._coarse(Inputs.of(x).bf16))

    def _coarse(self, x: torch.Tensor) -> torch.Tensor:
        step = x.float().abs().max() / 448
        return ((x.float() / step).to(FP8).float() * step).bfloat16()


class Mutant(CudaOperations):
    """Everything of the kernels but the inputs of the linear layers."""

    def linear(self, weight: LinearWeight) -> Linear:
        return BatchScaled(super().linear(weight))

    def add_norm(self, weight: torch.Tensor, eps: float, forms: frozenset[type[Activations]]) -> CudaAddNorm:
        return super().add_norm(weight, eps, frozenset({Unscaled}))


def test_the_check_sees_a_batch_dependent_layer(folder: Path) -> None:
    mutant = load(folder, Mutant(max_tokens=MAX_TOKENS))
    rows = [alone(mutant, tokens(i, length)) for i, length in enumerate(LENGTHS)]
    assert different_rows(mutant, rows, 16, 0) > 0


def test_the_check_sees_a_row_that_should_not_be(loaded: LoadedModel, expected: list[torch.Tensor]) -> None:
    """The twin of graphs: rows past a step's own that write to a slot, here one that an earlier step has filled."""
    cache = cache_of(loaded, 300, 16)
    graphed = graphs_of(loaded, cache, most=64)
    inputs = vars(graphed)["_inputs"]
    which = LENGTHS.index(63)

    def is_right(start: int, count: int) -> bool:
        chunks: Chunks = [(tokens(which, 63), start, count, list(range(4)))]
        out = forward(loaded, cache, chunks, graphed)[0]
        return torch.equal(out, expected[which][start : start + count])

    assert is_right(0, 30)
    vars(inputs)["_slot_mapping"].filler = 3
    assert not is_right(30, 27)

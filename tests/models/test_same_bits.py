"""A row of the model depends on its request's tokens up to it, and on nothing else: bit by bit."""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Any

import pytest
import torch

from models.toy import (
    CPU,
    FP8_BLOCK,
    FP8_DYNAMIC,
    KV_FP8,
    allocate_cache,
    make_batch,
    per_tensor,
    random_tensors,
    raw_config,
    raw_glm4_moe,
    raw_minimax_m2,
    raw_mixtral,
    raw_olmoe,
    raw_qwen2_moe,
    raw_qwen3_5_moe,
    raw_qwen3_next,
    write_checkpoint,
)
from octavo.models.load import LoadedModel, load_model
from octavo.models.registry import read_config

CONFIGS: dict[str, dict[str, Any]] = {
    "fp8": raw_config(num_experts=32, num_experts_per_tok=8),
    "bf16": raw_config(quantization_config=None),
    "fp8-cache": raw_config(quantization_config=FP8_DYNAMIC | {"kv_cache_scheme": KV_FP8}, head_dim=24),
    "fp8-dense-between-bias": raw_config(mlp_only_layers=[1], attention_bias=True, num_key_value_heads=1, head_dim=24),
    "fp8-no-sharing": raw_config(num_key_value_heads=4, tie_word_embeddings=True, norm_topk_prob=False),
    "mixtral": raw_mixtral(),
    "olmoe": raw_olmoe(),
    "qwen2-moe": raw_qwen2_moe(),
    "glm4-moe": raw_glm4_moe(n_group=4, topk_group=2, use_qk_norm=True, attention_bias=True),
    "minimax-m2": raw_minimax_m2(),
    "qwen3-next": raw_qwen3_next(full_attention_interval=2),
    "qwen3.5-moe": raw_qwen3_5_moe(full_attention_interval=2),
    "static": raw_config(quantization_config=per_tensor(), num_experts=32, num_experts_per_tok=8, attention_bias=True),
    "blocks": raw_config(quantization_config=FP8_BLOCK, head_dim=32, num_attention_heads=4, num_key_value_heads=4),
}
LENGTH = 300
"""Five bands of the keys that attention takes at once, and more than the largest block."""


@pytest.fixture(scope="module", params=list(CONFIGS.values()), ids=list(CONFIGS))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("model")
    raw = request.param
    write_checkpoint(folder, raw, random_tensors(read_config(raw), 3))
    return load_model(folder, load_format="auto", device=CPU, seed=0, progress=False)


def tokens(seed: int, count: int) -> list[int]:
    return torch.randint(97, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def alone(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    """Hidden states of `ids` in one step with nothing beside it."""
    blocks = -(-len(ids) // 16)
    cache = allocate_cache(loaded.config, num_blocks=blocks, block_size=16)
    batch = make_batch([(ids, 0, len(ids), list(range(blocks)))], block_size=16, columns=blocks)
    return loaded.model.forward(batch, cache)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Four requests, and their hidden states alone."""

    seed: int
    requests: list[list[int]]
    expected: list[torch.Tensor]


@pytest.fixture(scope="module", params=range(2), ids=lambda seed: f"draw{seed}")
def drawn(request: pytest.FixtureRequest, loaded: LoadedModel) -> Drawn:
    seed = request.param
    pick = random.Random(seed)
    requests = [tokens(10 * seed + i, LENGTH if i == 0 else pick.randint(1, 150)) for i in range(4)]
    return Drawn(seed, requests, [alone(loaded, ids) for ids in requests])


@pytest.mark.parametrize("block_size", [1, 7, 16, 200])
def test_any_chunks_blocks_and_neighbours(loaded: LoadedModel, drawn: Drawn, block_size: int) -> None:
    """Four requests move on by drawn chunks in drawn order, in drawn blocks; each row as if alone."""
    pick = random.Random(1000 * drawn.seed + block_size)
    requests, expected = drawn.requests, drawn.expected
    per_request = [-(-len(ids) // block_size) for ids in requests]
    free = list(range(sum(per_request) + 3))
    pick.shuffle(free)
    blocks = [[free.pop() for _ in range(count)] for count in per_request]
    cache = allocate_cache(loaded.config, num_blocks=sum(per_request) + 3, block_size=block_size)
    done = [0] * 4
    while any(done[i] < len(ids) for i, ids in enumerate(requests)):
        left = [i for i, ids in enumerate(requests) if done[i] < len(ids)]
        chosen = pick.sample(left, pick.randint(1, len(left)))
        counts = [min(pick.choice([1, 1, 2, 7, 8, 9, 31, 64, 150]), len(requests[i]) - done[i]) for i in chosen]
        chunks = [(requests[i], done[i], count, blocks[i]) for i, count in zip(chosen, counts, strict=True)]
        batch = make_batch(chunks, block_size=block_size, columns=max(per_request) + 1)
        hidden = loaded.model.forward(batch, cache)
        for row, (i, count) in enumerate(zip(chosen, counts, strict=True)):
            got = hidden[batch.chunk_starts[row] : batch.chunk_starts[row + 1]]
            assert torch.equal(got, expected[i][done[i] : done[i] + count])
            done[i] += count


@pytest.mark.parametrize("count", [2, 3, 17, 64], ids=lambda count: f"{count}-requests")
def test_decode_among_others(loaded: LoadedModel, count: int) -> None:
    """Many one-token chunks at once, at positions before, at and after a KV tile's edge."""
    requests = [tokens(i, 100 + 7 * (i % 8)) for i in range(count)]
    blocks = [list(range(10 * i, 10 * i + 10)) for i in range(count)]
    cache = allocate_cache(loaded.config, num_blocks=10 * count, block_size=16)
    prompts = [(ids, 0, len(ids) - 1, table) for ids, table in zip(requests, blocks, strict=True)]
    loaded.model.forward(make_batch(prompts, block_size=16, columns=12), cache)
    last = [(ids, len(ids) - 1, 1, table) for ids, table in zip(requests, blocks, strict=True)]
    hidden = loaded.model.forward(make_batch(last, block_size=16, columns=12), cache)
    for i in range(min(count, 12)):
        assert torch.equal(hidden[i], alone(loaded, requests[i])[-1])


def test_logits_of_a_row_alone_and_among_others(loaded: LoadedModel) -> None:
    hidden = alone(loaded, tokens(1, 70))
    together = loaded.model.logits(hidden)
    for rows in (slice(0, 1), slice(33, 34), slice(5, 50), slice(69, 70)):
        assert torch.equal(loaded.model.logits(hidden[rows]), together[rows])


def test_no_tokens(loaded: LoadedModel) -> None:
    cache = allocate_cache(loaded.config, num_blocks=2, block_size=16)
    hidden = loaded.model.forward(make_batch([], block_size=16, columns=4), cache)
    assert hidden.shape == (0, loaded.config.hidden_size)
    assert loaded.model.logits(hidden).shape == (0, loaded.config.vocab_size)


def test_threads_change_nothing(loaded: LoadedModel) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = alone(loaded, tokens(2, 90))
        torch.set_num_threads(2)
        two = alone(loaded, tokens(2, 90))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, two)


@pytest.mark.parametrize("counts", [(1, 1, 1), (3, 1, 40), (130, 1, 1), (130, 1, 70)], ids=str)
def test_rows_that_are_not_wanted_change_no_other(loaded: LoadedModel, counts: tuple[int, ...]) -> None:
    """The last rows of each chunk, and the cache, are those of a step that wants all rows."""
    ids = [tokens(7 + i, 200) for i in range(3)]
    blocks = [list(range(13 * i, 13 * i + 13)) for i in range(3)]
    past, now = (((0, 30), (0, 64), (0, 9)), ((30, 130), (64, 1), (9, 70)))
    results, caches = [], []
    for wanted in (None, counts):
        cache = allocate_cache(loaded.config, num_blocks=39, block_size=16)
        for layer in cache.layers:
            layer.zero_()
        for step in (past, now):
            chunks = [(ids[i], start, count, blocks[i]) for i, (start, count) in enumerate(step)]
            batch = make_batch(chunks, block_size=16, columns=13)
            batch = dataclasses.replace(batch, output_counts=wanted if step is now else None)
            hidden = loaded.model.forward(batch, cache)
        results.append(hidden.split([end - begin for begin, end in itertools.pairwise(batch.output_starts)]))
        caches.append(cache.layers)
    for whole, some, count in zip(*results, counts, strict=True):
        assert torch.equal(whole[-count:], some)
    assert all(torch.equal(a, b) for a, b in zip(*caches, strict=True))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf], ids=["nan", "inf"])
def test_class_e_a_bad_row_stays_alone(loaded: LoadedModel, bad: float) -> None:
    """[E] One token's embedding is not finite: its request is NaN from there on, not before, and no other is."""
    embedding = vars(loaded.model)["_embedding"]
    kept = embedding[96].clone()
    good, poisoned = [t % 96 for t in tokens(4, 60)], [t % 96 for t in tokens(5, 60)]
    expected, before = alone(loaded, good), alone(loaded, poisoned)
    poisoned[37] = 96
    try:
        embedding[96, 3] = bad
        cache = allocate_cache(loaded.config, num_blocks=8, block_size=16)
        batch = make_batch([(poisoned, 0, 60, [1, 7, 3, 5]), (good, 0, 60, [0, 2, 4, 6])], block_size=16, columns=4)
        hidden = loaded.model.forward(batch, cache)
        assert hidden[37:60].isnan().any(-1).all()
        assert torch.equal(hidden[:37], before[:37])
        assert torch.equal(hidden[60:], expected)
        # The blocks of the bad request go to another one, their unused slots full of its NaN.
        reused = loaded.model.forward(make_batch([(good, 0, 60, [5, 3, 7, 1])], block_size=16, columns=4), cache)
        assert torch.equal(reused, expected)
    finally:
        embedding[96] = kept


def test_the_whole_tells_a_changed_token(loaded: LoadedModel) -> None:
    """The twin of the tests above: another token at one position changes rows from there on and none before."""
    ids = tokens(6, 50)
    changed = [*ids[:20], (ids[20] + 1) % 97, *ids[21:]]
    a, b = alone(loaded, ids), alone(loaded, changed)
    assert torch.equal(a[:20], b[:20])
    assert not (a[20:] == b[20:]).all(-1).any()

"""Two layers of Qwen3-Next's shape on a GPU: any chunks, company and kept states, in graphs and launched, bit by bit."""

from __future__ import annotations

import dataclasses
import json
import random
from typing import Any

import pytest
import torch

from gpu.test_model_bits import COLUMNS, MAX_TOKENS, graphs_of, load, tokens
from models.toy import FP8_DYNAMIC, make_batch
from octavo.models.cuda_operations import CudaOperations
from octavo.models.forward_batch import ForwardBatch
from octavo.models.kv_cache import KVCache
from octavo.models.load import LoadedModel
from octavo.ops.delta_net import StateUse

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3NextForCausalLM"],
    "vocab_size": 4096,
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "num_hidden_layers": 2,
    "full_attention_interval": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 512,
    "max_position_embeddings": 8192,
    "quantization_config": FP8_DYNAMIC | {"ignore": ["lm_head", "re:.*mlp.gate$", "re:.*shared_expert_gate$"]},
}
"""The other sizes are the defaults, which are Qwen3-Next-80B-A3B's."""
CUDA = torch.device("cuda")
LENGTHS = [1, 3, 64, 65, 300, 513, 1025]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    made = tmp_path_factory.mktemp("hybrid")
    (made / "config.json").write_text(json.dumps(CONFIG))
    return load(made, CudaOperations(max_tokens=MAX_TOKENS))


def cache_of(loaded: LoadedModel, num_blocks: int) -> KVCache:
    """Full of NaN: what is not written must not be seen."""
    cache = KVCache.allocate(
        loaded.config.cache, num_blocks=num_blocks, num_states=num_blocks, block_size=16, device=CUDA
    )
    for layer in cache.layers:
        layer.fill_(torch.nan)
    return cache


def alone(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    blocks = list(range(-(-len(ids) // 16)))
    batch = make_batch([(ids, 0, len(ids), blocks)], block_size=16, columns=COLUMNS)
    return loaded.model.forward(batch.to(CUDA), cache_of(loaded, len(blocks)))


@pytest.fixture(scope="module")
def expected(loaded: LoadedModel) -> list[torch.Tensor]:
    rows = [alone(loaded, tokens(i, length)) for i, length in enumerate(LENGTHS)]
    assert all(hidden.isfinite().all() for hidden in rows)
    return rows


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "launched"])
@pytest.mark.parametrize("seed", range(3))
def test_any_chunks_in_any_company(loaded: LoadedModel, expected: list[torch.Tensor], graphs: bool, seed: int) -> None:
    pick = random.Random(seed)
    tables = [list(range(70 * i, 70 * i + 65)) for i in range(len(LENGTHS))]
    cache = cache_of(loaded, 70 * len(LENGTHS))
    graphed = graphs_of(loaded, cache) if graphs else None
    done = [0] * len(LENGTHS)
    while left := [i for i, length in enumerate(LENGTHS) if done[i] < length]:
        chosen = pick.sample(left, pick.randint(1, len(left)))
        counts = [min(pick.choice([1, 1, 2, 7, 64, 65, 200]), LENGTHS[i] - done[i]) for i in chosen]
        chunks = [(tokens(i, LENGTHS[i]), done[i], count, tables[i]) for i, count in zip(chosen, counts, strict=True)]
        batch = make_batch(chunks, block_size=16, columns=COLUMNS)
        hidden = graphed.forward(batch, cache) if graphed else loaded.model.forward(batch.to(CUDA), cache)
        for i, count, got in zip(chosen, counts, hidden.split(counts), strict=True):
            assert torch.equal(got, expected[i][done[i] : done[i] + count])
            done[i] += count


def test_token_by_token(loaded: LoadedModel, expected: list[torch.Tensor]) -> None:
    """What decode gives has the bits of one chunk of all, over four borders of spans."""
    ids, blocks, cache = tokens(3, 65), list(range(5)), cache_of(loaded, 5)
    for t in range(65):
        batch = make_batch([(ids, t, 1, blocks)], block_size=16, columns=COLUMNS)
        assert torch.equal(loaded.model.forward(batch.to(CUDA), cache), expected[3][t : t + 1]), t


@pytest.mark.parametrize("after", [1, 15, 160, 170])
def test_a_kept_state_is_gone_on_from(loaded: LoadedModel, expected: list[torch.Tensor], after: int) -> None:
    """Kept behind a span or within one; and the twin, one token too late."""
    ids, blocks, cache = tokens(4, 300), list(range(19)), cache_of(loaded, 40)

    def forward(start: int, use: StateUse) -> torch.Tensor:
        batch: ForwardBatch = make_batch([(ids, start, 300 - start, blocks)], block_size=16, columns=COLUMNS)
        return loaded.model.forward(dataclasses.replace(batch, states=(use,)).to(CUDA), cache)

    for late, same in ((0, True), (1, False)):
        forward(0, StateUse(-1, 0, keep=30, keep_after=after + late))
        assert torch.equal(forward(after, StateUse(30, 1)), expected[4][after:]) is same

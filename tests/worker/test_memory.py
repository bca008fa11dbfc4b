"""Block counts, the warm-up plans, and the memory table."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.toy import raw_qwen3_next
from octavo.config.format_choice import FormatChoice
from octavo.errors import ConfigError
from octavo.models.forward_batch import ForwardBatch
from octavo.models.kv_cache import KVCache
from octavo.models.registry import read_config
from octavo.worker.memory import (
    CPU_KV_BYTES,
    MemoryTable,
    available_bytes,
    count_blocks,
    held_bytes,
    kv_cache_source,
    require_share,
    taken_bytes,
)
from octavo.worker.warm_up import (
    SHORT_BEHIND,
    blocks_of_widest,
    divided_plan,
    load_kernels,
    visit_kernels,
    warm_up,
    widest_plan,
)
from worker.toy import VOCAB, ToyModel, toy_cache, toy_config

CONFIG = read_config(
    {
        "model_type": "qwen3_moe",
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 32,
        "moe_intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 64,
    }
)
MODEL = CONFIG.facts
BLOCK_BYTES = 4 * 2 * 2 * 2 * 2 * 8
"""4 tokens, keys and values, 2 bytes, 2 layers, 2 heads, 8 wide."""


def test_the_number_of_blocks_is_taken_as_given() -> None:
    assert count_blocks(toy_config(num_blocks=7), MODEL, 0) == 7


def test_blocks_fill_the_bytes_given_and_no_more() -> None:
    config = toy_config(num_blocks=None, kv_cache_memory_bytes=3 * BLOCK_BYTES + BLOCK_BYTES - 1)
    assert count_blocks(config, MODEL, 0) == 3


def test_blocks_fill_what_is_free() -> None:
    assert count_blocks(toy_config(num_blocks=None), MODEL, 5 * BLOCK_BYTES) == 5


def test_on_a_cpu_no_more_blocks_than_all_slots_at_full_length() -> None:
    assert count_blocks(toy_config(num_blocks=None), MODEL, 2**40) == 4 * 10


def test_on_a_gpu_cached_prefixes_get_what_running_requests_leave() -> None:
    config = toy_config(device="cuda", num_blocks=None)
    assert count_blocks(config, MODEL, 2**40) == 2**40 // BLOCK_BYTES


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_size_that_is_told_is_taken_whole(device: str) -> None:
    config = toy_config(device=device, num_blocks=None, kv_cache_memory_bytes=1000 * BLOCK_BYTES)
    assert count_blocks(config, MODEL, 0) == 1000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_blocks": 7}, "--num-gpu-blocks-override"),
        ({"kv_cache_memory_bytes": 2**20}, "--kv-cache-memory-bytes"),
        ({"device": "cuda", "gpu_memory_utilization": 0.5}, "--gpu-memory-utilization 0.5"),
        ({}, "at most 1 GiB; --kv-cache-memory-bytes gives more"),
    ],
)
def test_the_size_of_the_cache_is_explained(changes: dict[str, Any], words: str) -> None:
    assert words in kv_cache_source(toy_config(**{"num_blocks": None, **changes}))


@pytest.mark.parametrize(
    ("given", "setting"), [(None, "gpu_memory_utilization"), (BLOCK_BYTES - 1, "kv_cache_memory_bytes")]
)
def test_no_room_for_a_block_names_the_setting_and_the_remedy(given: int | None, setting: str) -> None:
    config = toy_config(num_blocks=None, kv_cache_memory_bytes=given)
    with pytest.raises(ConfigError, match=rf"{setting}: leaves \d+ bytes .* takes {BLOCK_BYTES}; raise it") as error:
        count_blocks(config, MODEL, -5)
    assert error.value.setting == setting


def test_a_cpu_gives_a_gibibyte() -> None:
    assert available_bytes(toy_config(), 0, 0, 0) == CPU_KV_BYTES == 2**30


GIB = 2**30


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A GPU of 100 GiB, of which as many bytes are free as the fixture says."""
    memory = {"free": 100 * GIB}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (memory["free"], 100 * GIB))
    return memory


@pytest.mark.parametrize("others", [0, 10, 60])
def test_a_share_of_a_gpu_is_this_servers_whatever_others_take(gpu: dict[str, int], others: int) -> None:
    config = toy_config(device="cuda", gpu_memory_utilization=0.4, num_blocks=None)
    gpu["free"] -= others * GIB
    before = taken_bytes(torch.device("cuda"))
    require_share(config, before)
    gpu["free"] -= 15 * GIB  # the weights
    assert available_bytes(config, 5 * GIB, before, 14 * GIB) == 20 * GIB


def test_no_more_than_is_free_is_shared_out(gpu: dict[str, int]) -> None:
    gpu["free"] = 30 * GIB  # others have grown since
    assert available_bytes(toy_config(device="cuda", gpu_memory_utilization=1.0), 5 * GIB, GIB // 2, 0) == 25 * GIB


@pytest.mark.parametrize("others", [30, -15])
def test_what_others_take_or_give_back_meanwhile_is_not_this_servers(gpu: dict[str, int], others: int) -> None:
    config = toy_config(device="cuda", gpu_memory_utilization=0.4, num_blocks=None)
    gpu["free"] -= 20 * GIB
    before = taken_bytes(torch.device("cuda"))
    gpu["free"] -= (10 + others) * GIB
    shared_out = available_bytes(config, 5 * GIB, before, 10 * GIB)
    assert 23 * GIB <= shared_out <= 25 * GIB


def test_weights_of_another_process_are_held_beside_this_ones_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 3 * GIB)
    assert held_bytes(2 * GIB, mapped=True) == 5 * GIB
    assert held_bytes(2 * GIB, mapped=False) == 3 * GIB


def test_a_share_that_others_have_taken_is_refused_before_anything_is_measured(gpu: dict[str, int]) -> None:
    gpu["free"] = 58 * GIB
    config = toy_config(device="cuda", gpu_memory_utilization=0.6, num_blocks=None)
    with pytest.raises(ConfigError, match=r"60\.0 .* 58\.0 ") as error:
        require_share(config, taken_bytes(torch.device("cuda")))
    assert error.value.setting == "gpu_memory_utilization"
    for told in ({"num_blocks": 9}, {"kv_cache_memory_bytes": GIB}):
        require_share(toy_config(device="cuda", gpu_memory_utilization=0.6, **{"num_blocks": None, **told}), 42 * GIB)


def test_opening_the_device_takes_nothing_of_the_share(gpu: dict[str, int]) -> None:
    gpu["free"] -= GIB // 2  # the context of this server's own process
    require_share(toy_config(device="cuda", gpu_memory_utilization=1.0, num_blocks=None), GIB // 2)


def test_the_table_lists_every_use_and_the_sum() -> None:
    text = str(MemoryTable(weights=3 * 2**20, kv_cache=2**19, workspace=0))
    assert text.splitlines() == [
        "weights             3.0 MiB",
        "kv cache            0.5 MiB",
        "workspace           0.0 MiB",
        "total               3.5 MiB",
    ]


class Witness(ToyModel):
    """Notes the sizes of the batches it gets."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int, int]] = []
        self.wanted: list[int] = []
        """Most rows that are wanted of a request."""

    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        self.sizes.append((len(batch.token_ids), len(batch.context_lens), max(batch.context_lens)))
        self.wanted.append(max(batch.output_counts or (0,)))
        return super().forward(batch, kv_cache)


SHAPES = {
    "budget": ({}, (64, 4, 16), (64, 3, 40)),
    "small budget": ({"max_num_batched_tokens": 8}, (8, 4, 2), (8, 2, 40)),
    "one seat": ({"max_num_seqs": 1}, (40, 1, 40), (40, 1, 40)),
    "small pool": ({"num_blocks": 12, "max_num_seqs": 20}, (48, 12, 4), (48, 2, 40)),
    "tiny pool": ({"num_blocks": 2}, (8, 2, 4), (8, 1, 8)),
    "budget of one": ({"max_num_batched_tokens": 1}, (1, 1, 1), (1, 1, 40)),
    "uneven": ({"max_num_batched_tokens": 9}, (9, 3, 3), (9, 2, 40)),
}
"""Settings -> (tokens, requests, longest context) of the divided and of the widest step."""


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_warm_up_runs_the_budget_divided_and_on_a_gpu_in_long_contexts(name: str, device: str) -> None:
    changes, divided, widest = SHAPES[name]
    config = toy_config(device=device, **changes)
    cache = toy_cache(config)
    for layer in cache.layers:
        layer.zero_()
    model = Witness()
    warm_up(model, cache, config, vocab_size=VOCAB)
    if device == "cpu":
        assert model.sizes == [divided]
    else:  # as most steps are, too: without scores of prompts' tokens, which have a graph of their own
        assert model.sizes == [divided, divided, widest, widest]
        assert model.wanted[1::2] == [1, 1]
        assert [rows > 1 for rows in model.wanted[::2]] == [
            tokens > requests for tokens, requests, _ in (divided, widest)
        ]
    assert all(torch.isfinite(layer).all() for layer in cache.layers)


@pytest.mark.parametrize(("budget", "sizes"), [(1, []), (2, [1]), (9, [1, 2, 4, 8]), (64, [1, 2, 4, 8, 16, 32])])
def test_kernels_are_loaded_at_every_power_of_two_below_the_budget(budget: int, sizes: list[int]) -> None:
    config = toy_config(device="cuda", max_num_batched_tokens=budget)
    model = Witness()
    load_kernels(model, toy_cache(config), config, vocab_size=VOCAB)
    assert [tokens for tokens, _, _ in model.sizes] == [size for size in sizes for _ in range(2)]


@pytest.mark.parametrize("budget", [1, 2, 9, 64])
def test_what_is_compiled_ahead_is_all_that_is_run(budget: int) -> None:
    """The steps of `load_kernels`, and then the largest, which run twice."""
    config = toy_config(device="cuda", max_num_batched_tokens=budget)
    visited, loaded, warm = Witness(), Witness(), Witness()
    visit_kernels(visited, toy_cache(config), config, vocab_size=VOCAB)
    load_kernels(loaded, toy_cache(config), config, vocab_size=VOCAB)
    warm_up(warm, toy_cache(config), config, vocab_size=VOCAB)
    assert warm.sizes[::2] == warm.sizes[1::2]
    assert visited.sizes == loaded.sizes + warm.sizes[::2]


def test_of_the_largest_steps_one_reaches_the_end_of_a_context() -> None:
    """Where a step is only run for its graph, its contexts are short: at 40,960 tokens the longest take most of a second."""
    config = toy_config(device="cuda", max_num_batched_tokens=9, max_model_len=4000, max_num_seqs=2, num_blocks=3000)
    model = Witness()
    warm_up(model, toy_cache(config), config, vocab_size=VOCAB)
    assert model.sizes == [(9, 2, 5), (9, 2, 5), (9, 2, 4000), (9, 2, 9 + SHORT_BEHIND)]
    measured = Witness()
    warm_up(measured, toy_cache(config), config, vocab_size=VOCAB, shortly=True)
    assert measured.sizes == [(9, 2, 5), (9, 2, 5), (9, 2, 9 + SHORT_BEHIND), (9, 2, 9 + SHORT_BEHIND)]


@settings(max_examples=100)
@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 100), st.integers(1, 20))
def test_the_widest_step_takes_the_whole_budget_if_it_gets_its_blocks(
    budget: int, seats: int, max_model_len: int, block_size: int
) -> None:
    config = toy_config(
        max_num_batched_tokens=budget, max_num_seqs=seats, max_model_len=max_model_len, block_size=block_size
    )
    plan = widest_plan(config, blocks_of_widest(config))
    assert sum(chunk.count for chunk in plan.chunks) == min(budget, seats * max_model_len)
    divided = divided_plan(config, 10**6)
    assert sum(chunk.count for chunk in divided.chunks) == min(budget, seats * max_model_len)


def test_model_shape_is_read_from_the_configuration() -> None:
    assert MODEL.kv_bytes_per_token * 4 == BLOCK_BYTES
    assert dataclasses.replace(CONFIG, num_hidden_layers=3).facts.kv_bytes_per_token * 8 == 3 * BLOCK_BYTES


@pytest.mark.parametrize(("name", "times"), [("auto", 1), ("bfloat16", 1), ("fp8", 2), ("fp8_e4m3", 2)])
def test_as_much_memory_holds_twice_the_blocks_in_fp8(name: str, times: int) -> None:
    """As they are counted, and as they are allocated."""
    kept = FormatChoice(kv_cache_dtype=name).apply(CONFIG.quantization)
    config = dataclasses.replace(CONFIG, quantization=kept)
    told = toy_config(num_blocks=None, kv_cache_memory_bytes=6 * BLOCK_BYTES)
    count = count_blocks(told, config.facts, 0)
    assert count == 6 * times
    cache = KVCache.allocate(config.cache, num_blocks=count, block_size=told.block_size, device=torch.device("cpu"))
    assert cache.num_bytes == 6 * BLOCK_BYTES
    assert all(not layer.view(torch.uint8).any() for layer in cache.layers)


def test_states_of_all_requests_are_counted_beside_the_blocks() -> None:
    """Of a model with recurrent layers; and what is allocated is what was counted."""
    raw = raw_qwen3_next()
    model = read_config(raw)
    facts = model.facts
    states, block = 4 * facts.state_bytes_per_request, 4 * facts.kv_bytes_per_token
    assert states > 0
    config = toy_config(num_blocks=None, kv_cache_memory_bytes=states + 3 * block)
    assert count_blocks(config, facts, 0) == 3
    cache = KVCache.allocate(model.cache, num_blocks=3, num_states=4, block_size=4, device=torch.device("cpu"))
    assert cache.num_bytes == states + 3 * block == facts.cache_bytes(tokens=12, requests=4)
    assert (cache.num_blocks, cache.block_size, cache.num_states) == (3, 4, 4)
    with pytest.raises(ConfigError, match="max_num_seqs"):
        count_blocks(toy_config(num_blocks=None, kv_cache_memory_bytes=states + block - 1), facts, 0)

"""A whole model on the kernels, through the interpreter."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from triton.runtime.interpreter import GridExecutor
from triton.tools.tensor_descriptor import TensorDescriptor

from compare import BF16_ROUNDING, assert_rows, row_errors
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
from octavo.models.cuda_operations import CudaOperations
from octavo.models.decoder.model import Decoder
from octavo.models.kv_cache import KVCache
from octavo.models.load import LoadedModel, load_model
from octavo.models.operations import Operations
from octavo.models.registry import read_config

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "num_experts": 4}
CONFIGS = {
    "fp8": raw_config(**SMALL),
    "static": raw_config(**SMALL, quantization_config=per_tensor()),
    "fp8-cache": raw_config(**SMALL, quantization_config=FP8_DYNAMIC | {"kv_cache_scheme": KV_FP8}),
    "mixtral": raw_mixtral(
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16, num_local_experts=4
    ),
    "qwen2-moe": raw_qwen2_moe(**SMALL),
    "olmoe": raw_olmoe(**SMALL),
    "glm4-moe": raw_glm4_moe(
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, n_routed_experts=4, use_qk_norm=True
    ),
    "minimax-m2": raw_minimax_m2(
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, num_local_experts=4
    ),
    "qwen3-next": raw_qwen3_next(**SMALL, full_attention_interval=2, linear_num_value_heads=2),
    "qwen3.5-moe": raw_qwen3_5_moe(
        **{name: size for name, size in SMALL.items() if name in raw_qwen3_5_moe()},
        full_attention_interval=2,
        linear_num_value_heads=2,
    ),
    "blocks": raw_config(
        **SMALL | {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64}, quantization_config=FP8_BLOCK
    ),
    "blocks, down in bf16": raw_config(
        **SMALL | {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64},
        quantization_config=FP8_BLOCK | {"modules_to_not_convert": ["lm_head", "down_proj"]},
    ),
    "bf16-dense-bias": raw_config(**SMALL, quantization_config=None, mlp_only_layers=[1], attention_bias=True),
}
LENGTH = 66


def load(folder: Path, operations: Operations | None) -> LoadedModel:
    return load_model(folder, load_format="auto", device=CPU, seed=0, operations=operations, progress=False)


@pytest.fixture(scope="module", params=list(CONFIGS.values()), ids=list(CONFIGS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    write_checkpoint(made, request.param, random_tensors(read_config(request.param), 3))
    return made


def tokens(seed: int, count: int) -> list[int]:
    return torch.randint(97, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def alone(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    """Hidden states (T, H) of `ids` in one step with nothing beside it."""
    blocks = -(-len(ids) // 16)
    cache = allocate_cache(loaded.config, num_blocks=blocks, block_size=16)
    return loaded.model.forward(make_batch([(ids, 0, len(ids), list(range(blocks)))], block_size=16, columns=5), cache)


def test_a_model_computes_the_same_with_both_backends(folder: Path) -> None:
    """Within the roundings of two layers; another last token is seen."""
    ids = tokens(5, 9)
    kernels = load(folder, CudaOperations(max_tokens=64))
    out, expected = alone(kernels, ids), alone(load(folder, None), ids)
    assert_rows(out, expected, 0.05)
    assert float(row_errors(alone(kernels, [*ids[:-1], 96 - ids[-1]])[-1:], expected[-1:])) > 0.05
    assert_rows(kernels.model.logits(out), load(folder, None).model.logits(out), BF16_ROUNDING)


@pytest.mark.parametrize("name", ["fp8", "static", "fp8-cache", "qwen3-next"])
def test_any_chunks_blocks_and_neighbours(name: str, tmp_path: Path) -> None:
    """A request past one KV tile, in chunks of which some are one token, among two others; each row as if alone."""
    write_checkpoint(tmp_path, CONFIGS[name], random_tensors(read_config(CONFIGS[name]), 3))
    loaded = load(tmp_path, CudaOperations(max_tokens=128))
    requests = [tokens(1, LENGTH), tokens(2, 5), tokens(3, 3)]
    expected = [alone(loaded, ids) for ids in requests]
    logits = loaded.model.logits(expected[0])
    tables = [[14, 2, 9, 0, 7], [3, 12], [5]]
    cache = allocate_cache(loaded.config, num_blocks=16, block_size=16)
    steps = [[(1, 4), (0, 40)], [(0, 1), (1, 1)], [(2, 2), (0, 23)], [(0, 1), (2, 1)], [(0, 1)]]
    done = [0, 0, 0]
    for step in steps:
        chunks = [(requests[i], done[i], count, tables[i]) for i, count in step]
        batch = make_batch(chunks, block_size=16, columns=6)
        hidden = loaded.model.forward(batch, cache)
        for row, (i, count) in enumerate(step):
            rows = slice(batch.chunk_starts[row], batch.chunk_starts[row + 1])
            assert torch.equal(hidden[rows], expected[i][done[i] : done[i] + count])
            if i == 0:
                assert torch.equal(loaded.model.logits(hidden[rows]), logits[done[0] : done[0] + count])
            done[i] += count
    assert done == [len(ids) for ids in requests]


def test_the_check_sees_a_token_of_another_request(folder: Path) -> None:
    """The twin: one token changed changes the rows from there on and none before."""
    loaded = load(folder, CudaOperations(max_tokens=128))
    ids = tokens(6, 12)
    a, b = alone(loaded, ids), alone(loaded, [*ids[:7], (ids[7] + 1) % 97, *ids[8:]])
    assert torch.equal(a[:7], b[:7])
    assert not (a[7:] == b[7:]).all(-1).any()


def test_no_tokens(folder: Path) -> None:
    loaded = load(folder, CudaOperations(max_tokens=4))
    cache = allocate_cache(loaded.config, num_blocks=2, block_size=16)
    hidden = loaded.model.forward(make_batch([], block_size=16, columns=4), cache)
    assert loaded.model.logits(hidden).shape == (0, loaded.config.vocab_size)


@pytest.mark.parametrize(
    ("name", "changes", "kept"),
    [
        ("fp8", {}, [0, 5]),
        ("qwen3-next", {"full_attention_interval": 3}, [0, 2, 5]),
        ("glm4-moe", {}, [0, 1, 5]),
        ("bf16-dense-bias", {}, [0, 1, 5]),
    ],
)
def test_a_shortened_model_launches_every_kernel(
    name: str, changes: dict[str, int], kept: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of six layers; and the twin, whose layers are all taken for one kind: the first and the last do not launch all if there are more kinds."""
    raw = CONFIGS[name] | {"num_hidden_layers": 6} | changes
    write_checkpoint(tmp_path, raw, random_tensors(read_config(raw), 3))
    loaded = load(tmp_path, CudaOperations(max_tokens=64))
    cache = allocate_cache(loaded.config, num_blocks=2, block_size=16)
    batch = make_batch([(tokens(1, 20), 0, 20, [0, 1])], block_size=16, columns=5)
    batch = dataclasses.replace(batch, output_counts=(1,))
    launched: set[tuple[object, ...]] = set()
    launch = GridExecutor.__call__

    def noted(self: GridExecutor, *args: object, **options: object) -> None:
        launched.add((self.fn, *map(form, args), *((key, form(value)) for key, value in sorted(options.items()))))
        launch(self, *args, **options)

    def launched_by(model: Decoder, kv_cache: KVCache) -> set[tuple[object, ...]]:
        launched.clear()
        model.forward(batch, kv_cache)
        return launched.copy()

    monkeypatch.setattr(GridExecutor, "__call__", noted)
    whole = launched_by(loaded.model, cache)
    assert loaded.model.samples == kept
    part = cache.of(kept)
    assert [each is layer for each, layer in zip(part.layers, (cache.layers[i] for i in kept), strict=True)]
    assert launched_by(loaded.model.shortened(), part) == whole
    vars(loaded.model)["_kinds"] = [None] * 6
    other = loaded.model.shortened()
    assert (launched_by(other, cache.of(loaded.model.samples)) != whole) is (len(kept) > 2)


def form(argument: object) -> object:
    """What a kernel is compiled for, of one of its arguments."""
    if isinstance(argument, TensorDescriptor):
        return tuple(argument.block_shape), form(argument.base)
    return (argument.dtype, argument.shape[1:]) if isinstance(argument, torch.Tensor) else argument

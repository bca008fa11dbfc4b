"""The floor of a step, by hand at Qwen3-30B-A3B's shape, and by what all shapes have in common."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.step_floor import Floor, Rates, Rows, Work, layer_parts, state_bytes, step_parts, tensor_bytes, touched

from octavo.checkpoints.folder import resolve_folder
from octavo.config.delta_shape import DeltaShape
from octavo.config.facts import PagedKv, RecurrentState
from octavo.models.decoder.parameters import DecoderParameters
from octavo.models.placing import fresh_memory
from octavo.models.registry import read_folder

QWEN = "qwen3-30b-a3b-fp8-dynamic"
SHAPES = sorted((Path(__file__).parents[2] / "benchmarks" / "shapes").iterdir())
DECODE = Rows(requests=1, tokens=1, before=255, wanted=1)
PROMPTS = Rows(requests=8, tokens=1000, before=0, wanted=1)

QKV, OUT, ROUTER, EXPERT = 5120 * 2048, 2048 * 4096, 128 * 2048, 3 * 768 * 2048
DENSE_BYTES = QKV + 4 * 5120 + OUT + 4 * 2048 + 2 * ROUTER + 2 * (2048 + 2048 + 128 + 128)
"""Weights in FP8 with a scale for each row, the router in bf16, and four norms."""
EXPERT_BYTES = EXPERT + 4 * (2 * 768 + 2048)
TOKEN_BYTES = 2 * 4 * 128 * 2
"""Keys and values of 4 heads of 128, in bf16."""


def placed(name: str, **overrides: Any) -> tuple[DecoderParameters, tuple[PagedKv | RecurrentState, ...]]:
    """Parameters without memory, and the layout of the cache."""
    config = read_folder(resolve_folder(name, None), overrides)
    return config.place_parameters(fresh_memory(torch.device("meta"))), config.cache


def first_layer(rows: Rows, **overrides: Any) -> list[Work]:
    parameters, cache = placed(QWEN, **overrides)
    return layer_parts(parameters.layers[0], cache[0], rows)


def test_a_layer_of_one_decode_by_hand() -> None:
    dense, attention, experts = first_layer(DECODE)
    assert dense == Work(DENSE_BYTES, fp8=2 * (QKV + OUT), bf16=2 * ROUTER)
    assert attention == Work(256 * TOKEN_BYTES, bf16=4 * 256 * 32 * 128)
    assert experts == Work(8 * EXPERT_BYTES, fp8=2 * 8 * EXPERT)
    assert (DENSE_BYTES, EXPERT_BYTES) == (19_436_032, 4_732_928)


def test_a_step_is_all_its_layers() -> None:
    *parts, head = step_parts(*placed(QWEN), DECODE)
    assert len(parts) == 48 * 3
    assert head == Work(2 * 151936 * 2048, bf16=2 * 151936 * 2048)
    assert sum(part.num_bytes for part in parts) == 48 * (19_436_032 + 8 * 4_732_928 + 256 * 2048) == 2_775_539_712


def test_of_the_last_layer_only_keys_and_values_are_needed_of_every_row() -> None:
    dense, attention, experts, *_, last_dense, last_attention, last_experts, head = step_parts(*placed(QWEN), PROMPTS)
    assert head.bf16 == 8 * 2 * 151936 * 2048
    assert dense.fp8 == 2 * 8000 * (QKV + OUT)
    assert last_dense.fp8 == pytest.approx(2 * (8000 * 1024 * 2048 + 8 * (4096 * 2048 + OUT)))
    assert last_dense.num_bytes == dense.num_bytes
    assert attention == Work(8000 * TOKEN_BYTES, bf16=4 * 8 * (1000 * 1001 // 2) * 32 * 128)
    assert last_attention == Work(8000 * TOKEN_BYTES, bf16=4 * 8 * 1000 * 32 * 128)
    assert (experts.fp8, last_experts.fp8) == (2 * 8000 * 8 * EXPERT, 2 * 8 * 8 * EXPERT)


def test_few_rows_touch_few_experts() -> None:
    assert [touched(128, 8, rows) for rows in (0, 1, 2)] == [0, 8, 15.5]
    assert touched(128, 8, 8000) == pytest.approx(128)
    assert touched(8, 8, 1) == 8


@pytest.mark.parametrize(
    ("twin", "part", "more"),
    [
        ({"num_experts_per_tok": 9}, 2, Work(EXPERT_BYTES, fp8=2 * EXPERT)),
        ({"num_experts": 129}, 0, Work(2 * 2048, bf16=2 * 2048)),
        ({"num_key_value_heads": 8}, 1, Work(256 * TOKEN_BYTES)),
        ({"num_key_value_heads": 8}, 0, Work(1024 * (2048 + 4), fp8=2 * 1024 * 2048)),
    ],
)
def test_a_twin_with_more_of_one_thing_takes_as_much_more(twin: dict[str, int], part: int, more: Work) -> None:
    assert first_layer(DECODE, **twin)[part] == first_layer(DECODE)[part] + more


@pytest.mark.parametrize("folder", SHAPES, ids=lambda folder: folder.name)
def test_many_rows_read_every_weight_once(folder: Path) -> None:
    """All but the embedding and the last norm; beside them, the cache is read or written."""
    parameters, cache = placed(str(folder))
    rows = Rows(requests=1, tokens=20000, before=0, wanted=20000)
    kept = sum(
        20000 * layer.bytes_per_token
        if isinstance(layer, PagedKv)
        else state_bytes(mixer_shape(parameters), [(20000, 0)])
        for layer in cache
    )
    left_out = sum(map(tensor_bytes, (parameters.embedding, parameters.norm)))
    found = sum(part.num_bytes for part in step_parts(parameters, cache, rows))
    assert found == pytest.approx(parameters.num_bytes - left_out + kept, rel=1e-9)


def mixer_shape(parameters: DecoderParameters) -> DeltaShape:
    shape: DeltaShape = next(vars(layer.mixer)["shape"] for layer in parameters.layers if "shape" in vars(layer.mixer))
    return shape


def test_a_state_is_read_and_written_by_hand() -> None:
    """Row 256 is the last of a span: behind it the state is written, and no row is open."""
    shape = DeltaShape(key_heads=16, value_heads=32, key_dim=128, value_dim=128, taps=4)
    open_rows = 15 * (2 * (4096 + 2048) + 2 * 4 * 32)
    history = 2 * 3 * 8192
    assert state_bytes(shape, [(1, 255)]) == 2 * 4 * 32 * 128 * 128 + open_rows + 2 * history
    assert state_bytes(shape, [(1, 254)]) == 4 * 32 * 128 * 128 + open_rows + 2 * history


def test_gated_delta_net_by_hand() -> None:
    """Qwen3.6's first layer, in blocks of 128 x 128."""
    parameters, cache = placed(str(next(folder for folder in SHAPES if folder.name.startswith("qwen3.6"))))
    dense, states, experts = layer_parts(parameters.layers[0], cache[0], DECODE)
    into, back, expert = 12288 * 2048, 2048 * 4096, 3 * 512 * 2048
    assert dense.fp8 + dense.bf16 == 2 * (into + back + (2 * 32 + 256 + 1) * 2048)
    assert states.bf16 == 2 * 3 * 32 * 128 * 128
    assert experts.fp8 == 2 * 9 * expert
    two = layer_parts(parameters.layers[0], cache[0], dataclasses.replace(DECODE, requests=2))[2]
    of_each = experts.num_bytes / 9
    assert two.num_bytes == pytest.approx((1 + touched(256, 8, 2)) * of_each), "both have the shared one"


@pytest.mark.parametrize(
    ("number", "of_all_rows", "of_wanted_rows"),
    [
        (0, 2048 + 4096 + 2 * 32, 2048 + 4096 + 4096),
        (3, 2 * 2 * 256, 2 * 16 * 256 + 16 * 256),
    ],
    ids=["Gated DeltaNet", "gated attention"],
)
def test_queries_and_gates_of_the_last_layer_are_needed_of_few_rows(
    number: int, of_all_rows: int, of_wanted_rows: int
) -> None:
    """Columns of products with 2048: keys, values and decays; and queries, gates, the projection back, and the router."""
    parameters, cache = placed(str(next(folder for folder in SHAPES if folder.name.startswith("qwen3.6"))))
    router = 256 + 1
    for wanted in (1, 1000):
        dense, *_ = layer_parts(parameters.layers[number], cache[number], dataclasses.replace(PROMPTS, wanted=wanted))
        columns = 8000 * of_all_rows + 8 * wanted * (of_wanted_rows + router)
        assert dense.fp8 + dense.bf16 == pytest.approx(2 * 2048 * columns)


def test_a_kind_of_layer_that_is_not_known_is_refused() -> None:
    parameters, cache = placed(QWEN)
    other: Any = dataclasses.make_dataclass("Other", [("out", object)])(None)
    for change in ({"mixer": other}, {"mlp": other}):
        with pytest.raises(TypeError, match="Other"):
            layer_parts(dataclasses.replace(parameters.layers[0], **change), cache[0], DECODE)
    with pytest.raises(TypeError, match="RecurrentState"):
        layer_parts(parameters.layers[0], RecurrentState(1), DECODE)


def test_of_each_part_the_longer_time_counts() -> None:
    parts = [Work(2e6, fp8=1e6, bf16=1e6), Work(1e6, fp8=8e6)]
    assert Floor.of(parts, Rates(copied=1e12, fp8=2e12, bf16=1e12)) == Floor(bytes_us=3.0, operations_us=5.5, us=6.0)

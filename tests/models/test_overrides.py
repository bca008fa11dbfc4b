"""`--hf-overrides`: fields instead of those in config.json, in the server and in the worker alike."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from models.toy import CPU, random_tensors, raw_config, raw_qwen3_5_moe, write_checkpoint
from octavo.errors import CheckpointError
from octavo.messages import WorkerConfig
from octavo.models.cpu_operations import CpuOperations
from octavo.models.registry import decode_config, idle_overrides, read_config, read_folder
from octavo.startup import read_facts
from octavo.worker.shared_weights.weights import PlacedWeights, load_weights

YARN = {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    raw = raw_config()
    write_checkpoint(tmp_path, raw, random_tensors(read_config(raw), 1))
    return tmp_path


def test_a_field_is_put_in_and_null_takes_one_out(folder: Path) -> None:
    plain, changed = read_folder(folder), read_folder(folder, YARN)
    assert (plain.max_position_embeddings, changed.max_position_embeddings) == (512, 1024)
    assert plain.facts.identity != changed.facts.identity
    assert read_folder(folder, {"rope_theta": None}).rope.theta == 1e4
    assert read_folder(folder, {}) == plain


def test_what_is_put_in_is_read_as_strictly(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="dynamic"):
        read_folder(folder, {"rope_scaling": {"type": "dynamic", "factor": 2}})
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        read_folder(folder, {"num_hidden_layers": "3"})


def test_a_model_is_served_that_without_them_is_not(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(raw_config(rope_scaling={"type": "dynamic", "factor": 2.0})))
    with pytest.raises(CheckpointError):
        read_folder(tmp_path)
    assert read_folder(tmp_path, YARN) == read_config(raw_config(**YARN))
    assert idle_overrides(tmp_path, YARN) == []


@pytest.mark.parametrize(
    ("overrides", "idle"),
    [
        (YARN, []),
        ({"rope_thetta": 5e5}, ["rope_thetta"]),
        ({"rope_theta": 10000.0}, []),
        (YARN | {"bos_token_id": 7}, ["bos_token_id"]),
    ],
    ids=["read", "misspelt", "as-it-is", "not-read"],
)
def test_what_changes_nothing_is_said(
    overrides: dict[str, Any], idle: list[str], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert idle_overrides(folder, overrides) == idle
    with caplog.at_level(logging.WARNING):
        read_facts(folder, overrides)
    assert [name for name in idle if name in caplog.text] == idle
    assert bool(caplog.messages) == bool(idle)


def test_worker_and_keeper_read_them_too(folder: Path) -> None:
    config = WorkerConfig(
        model=str(folder),
        hf_overrides=YARN,
        max_model_len=1024,
        max_num_seqs=1,
        max_num_batched_tokens=64,
        block_size=16,
    )
    expected = read_folder(folder, YARN)
    loaded, checksum = load_weights(config, CPU, CpuOperations())
    assert loaded.config == expected
    kept = PlacedWeights(config, CPU).load()
    assert decode_config(kept.model) == expected
    assert kept.checksum == checksum


def test_fields_of_the_inner_config_are_put_in_beside_its_own(tmp_path: Path) -> None:
    """As model cards of Qwen3.5 and 3.6 tell it for long contexts; what is idle is named with its place."""
    text = {name: value for name, value in raw_qwen3_5_moe().items() if name not in ("architectures", "model_type")}
    raw = {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "model_type": "qwen3_5_moe",
        "text_config": text | {"model_type": "qwen3_5_moe_text"},
    }
    (tmp_path / "config.json").write_text(json.dumps(raw))
    yarn = {"rope_type": "yarn", "rope_theta": 1e7, "partial_rotary_factor": 0.25, "factor": 4.0}
    yarn |= {"mrope_interleaved": True, "mrope_section": [11, 11, 10], "original_max_position_embeddings": 512}
    plain = read_folder(tmp_path)
    changed = read_folder(tmp_path, {"text_config": {"rope_parameters": yarn}})
    assert changed.num_hidden_layers == plain.num_hidden_layers
    assert (plain.max_position_embeddings, changed.max_position_embeddings) == (512, 2048)
    overrides = {"text_config": {"rope_parameters": yarn, "rope_thetta": 1}, "vocab_size": 1}
    assert idle_overrides(tmp_path, overrides) == ["text_config.rope_thetta", "vocab_size"]
    assert read_folder(tmp_path, {"text_config": {"rope_parameters": None}}).rope.factor == 1.0
    with pytest.raises(CheckpointError, match="text_config"):
        read_folder(tmp_path, {"text_config": None})

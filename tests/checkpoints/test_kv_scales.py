"""Scales of keys and values: by whose name they are found, what is done without them, and what they change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from models.toy import (
    CPU,
    FP8_DYNAMIC,
    KV_FP8,
    allocate_cache,
    make_batch,
    random_tensors,
    raw_config,
    write_checkpoint,
)
from octavo import LLM, SamplingParams
from octavo.config import KvFormat
from octavo.config.format_choice import FormatChoice
from octavo.errors import CheckpointError
from octavo.models.load import LoadedModel, load_model
from octavo.models.registry import read_config

WITH_SCALES = FP8_DYNAMIC | {"kv_cache_scheme": KV_FP8}
SPELLINGS = {
    "compressed-tensors": "self_attn.{side}_scale",
    "modelopt": "self_attn.{side}_proj.{side}_scale",
    "older compressed-tensors": "self_attn.{side}_proj.output_scale",
    "vllm": "self_attn.attn.{side}_scale",
}


def load(folder: Path, kv_cache_dtype: str = "auto") -> LoadedModel:
    choice = FormatChoice(kv_cache_dtype=kv_cache_dtype)
    return load_model(folder, load_format="auto", device=CPU, seed=0, progress=False, choice=choice)


def hidden_of(loaded: LoadedModel) -> torch.Tensor:
    batch = make_batch([([5, 9, 3, 70], 0, 4, [0])], block_size=16, columns=1)
    return loaded.model.forward(batch, allocate_cache(loaded.config, num_blocks=1, block_size=16))


def tensors_of(quantization: dict[str, object]) -> dict[str, torch.Tensor]:
    """Those of a model with scales far from 1, which show."""
    tensors = random_tensors(read_config(raw_config(quantization_config=quantization)), 1)
    return {
        name: tensor * 0.03 if name.endswith(("k_scale", "v_scale")) else tensor for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_they_are_found_in_every_spelling_and_shape(spelling: str, dim: int, tmp_path: Path) -> None:
    raw, tensors = raw_config(quantization_config=WITH_SCALES), tensors_of(WITH_SCALES)
    write_checkpoint(tmp_path / "plain", raw, tensors)
    renamed = {}
    for name, tensor in tensors.items():
        for side in "kv":
            if name.endswith(f"self_attn.{side}_scale"):
                name = name.replace(f"self_attn.{side}_scale", spelling.format(side=side))
                tensor = tensor.view(()) if dim == 0 else tensor
        renamed[name] = tensor.clone()
    write_checkpoint(tmp_path / "renamed", raw, renamed, shards=2)
    loaded = load(tmp_path / "renamed")
    assert loaded.config.quantization.kv_cache is KvFormat.FP8
    assert torch.equal(hidden_of(loaded), hidden_of(load(tmp_path / "plain")))
    # the twin: scales of 1 give other numbers
    without = {name: tensor for name, tensor in tensors.items() if not name.endswith(("k_scale", "v_scale"))}
    write_checkpoint(tmp_path / "without", raw, without)
    assert not torch.equal(hidden_of(load(tmp_path / "without")), hidden_of(loaded))


def test_without_them_they_are_1_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = tensors_of(FP8_DYNAMIC)
    write_checkpoint(tmp_path / "none", raw_config(), tensors)
    hidden = hidden_of(load(tmp_path / "none", "fp8"))
    assert [record.getMessage().count("k_scale") for record in caplog.records] == [1]
    ones = {f"model.layers.{layer}.self_attn.{side}_scale": torch.ones(1) for layer in range(3) for side in "kv"}
    write_checkpoint(tmp_path / "ones", raw_config(quantization_config=WITH_SCALES), tensors | ones)
    assert torch.equal(hidden, hidden_of(load(tmp_path / "ones")))
    assert not torch.equal(hidden, hidden_of(load(tmp_path / "none")))


def test_a_cache_in_bf16_leaves_them_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = tensors_of(WITH_SCALES)
    write_checkpoint(tmp_path / "scales", raw_config(quantization_config=WITH_SCALES), tensors)
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith(("k_scale", "v_scale"))}
    write_checkpoint(tmp_path / "plain", raw_config(), plain)
    hidden = hidden_of(load(tmp_path / "scales", "bfloat16"))
    assert "k_scale and 5 more" in caplog.text
    assert torch.equal(hidden, hidden_of(load(tmp_path / "plain")))


@pytest.mark.parametrize("bad", [0.0, -1.0, torch.nan, torch.inf])
def test_a_scale_that_is_no_positive_number_is_refused(bad: float, tmp_path: Path) -> None:
    tensors = tensors_of(WITH_SCALES)
    name = "model.layers.1.self_attn.v_scale"
    write_checkpoint(tmp_path, raw_config(quantization_config=WITH_SCALES), tensors | {name: torch.tensor([bad])})
    with pytest.raises(CheckpointError, match="positive") as info:
        load(tmp_path)
    assert info.value.tensor == name


@pytest.mark.parametrize("change", [{"num_bits": 4}, {"dynamic": True}, {"strategy": "attn_head"}], ids=str)
def test_another_scheme_is_refused(change: dict[str, object]) -> None:
    scheme = FP8_DYNAMIC | {"kv_cache_scheme": KV_FP8 | change}
    with pytest.raises(CheckpointError, match="kv_cache_scheme"):
        read_config(raw_config(quantization_config=scheme))


@pytest.mark.usefixtures("warm")
def test_an_engine_keeps_its_bits_over_the_death_of_its_worker() -> None:
    """octavo-tiny from `LLM`, with a cache in FP8: once undisturbed, once killed in the middle; and not the bits of bf16."""
    sampling = SamplingParams(seed=7, max_tokens=24, ignore_eos=True, logprobs=1)
    prompts = ["2 + 2 =", "The sky is", "A longer prompt, of which several blocks are full, so that a prefix is cached"]
    answers = []
    for changes in ({}, {"inject_fault": ("kill@step:9",)}, {"kv_cache_dtype": "bfloat16"}):
        settings: dict[str, Any] = {"kv_cache_dtype": "fp8", "max_model_len": 256, "crash_dir": None} | changes
        with LLM("octavo-tiny", cpu_threads=1, **settings) as llm:
            outputs = llm.generate(prompts, sampling, False)
        answers.append([(output.outputs[0].token_ids, output.outputs[0].logprobs) for output in outputs])
    undisturbed, killed, other = answers
    assert killed == undisturbed
    assert other != undisturbed

"""ModelOpt's FP8: where a folder states it, what it leaves out, and its keys and values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from models.toy import CPU, allocate_cache, make_batch, random_tensors, raw_config, write_checkpoint
from octavo.config import KvFormat, WeightFormat
from octavo.config.format_choice import FormatChoice
from octavo.errors import CheckpointError, ConfigError
from octavo.models.load import load_model
from octavo.models.registry import read_config, read_folder

STATED: dict[str, Any] = {
    "quant_algo": "FP8",
    "kv_cache_quant_algo": None,
    "exclude_modules": ["lm_head", "*.mlp.gate"],
}
FLOAT8 = {"dynamic": False, "num_bits": 8, "type": "float"}
SPREAD = {
    "config_groups": {"group_0": {"weights": FLOAT8, "input_activations": FLOAT8, "targets": ["Linear"]}},
    "ignore": ["lm_head", "model.layers.*.mlp.gate"],
    "quant_algo": "FP8",
    "kv_cache_scheme": FLOAT8,
    "producer": {"name": "modelopt", "version": "0.37.0"},
}
IN_CONFIG = {"flat": STATED, "nested": {"quantization": STATED}, "spread": SPREAD}


def raw_of(stated: dict[str, Any]) -> dict[str, Any]:
    return raw_config(quantization_config=stated | {"quant_method": "modelopt"})


def hidden_of(folder: Path, **choice: str) -> torch.Tensor:
    loaded = load_model(folder, load_format="auto", device=CPU, seed=0, progress=False, choice=FormatChoice(**choice))
    batch = make_batch([([5, 9, 3, 70], 0, 4, [0])], block_size=16, columns=1)
    return loaded.model.forward(batch, allocate_cache(loaded.config, num_blocks=1, block_size=16))


@pytest.mark.parametrize("stated", IN_CONFIG.values(), ids=IN_CONFIG)
def test_where_config_json_states_it(stated: dict[str, Any]) -> None:
    quantization = read_config(raw_of(stated)).quantization
    assert quantization.format is WeightFormat.FP8_STATIC
    assert quantization.kv_cache is (KvFormat.FP8 if "kv_cache_scheme" in stated else KvFormat.BF16)
    assert not quantization.covers("lm_head")
    assert not quantization.covers("model.layers.1.mlp.gate")
    assert quantization.covers("model.layers.1.mlp.experts.3.gate_proj")


def test_a_file_beside_is_as_good_as_a_section(tmp_path: Path) -> None:
    """The same bits; the section counts where there are both."""
    raw = raw_of(STATED)
    tensors = random_tensors(read_config(raw), 3)
    write_checkpoint(tmp_path / "section", raw, tensors)
    without = {name: value for name, value in raw.items() if name != "quantization_config"}
    write_checkpoint(tmp_path / "file", without, tensors)
    beside = {"producer": {"name": "modelopt"}, "quantization": STATED}
    (tmp_path / "file" / "hf_quant_config.json").write_text(json.dumps(beside))
    assert read_folder(tmp_path / "file") == read_folder(tmp_path / "section")
    assert torch.equal(hidden_of(tmp_path / "file"), hidden_of(tmp_path / "section", quantization="modelopt"))
    other = {"quantization": STATED | {"quant_algo": "NVFP4"}}
    (tmp_path / "section" / "hf_quant_config.json").write_text(json.dumps(other))
    read_folder(tmp_path / "section")


@pytest.mark.parametrize("beside", [{}, {"quantization": "FP8"}, {"quantization": {"exclude_modules": []}}], ids=str)
def test_a_bad_file_beside_is_named(beside: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(raw_config(quantization_config=None)))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    with pytest.raises(CheckpointError, match=r"hf_quant_config\.json"):
        read_folder(tmp_path)


def test_another_format_asked_for_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(raw_of(STATED)))
    with pytest.raises(ConfigError, match="modelopt"):
        read_folder(tmp_path, choice=FormatChoice(quantization="fp8"))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "groups": ({"config_groups": ["group_0"]}, "config_groups"),
    "dynamic": (
        {"config_groups": {"group_0": {"weights": FLOAT8, "input_activations": FLOAT8 | {"dynamic": True}}}},
        "input_activations.dynamic True",
    ),
    "weights only": ({"config_groups": {"group_0": {"weights": FLOAT8}}}, "input_activations is missing"),
    "scheme": ({"kv_cache_scheme": "FP8"}, "kv_cache_scheme"),
    "scheme of 4 bits": ({"kv_cache_scheme": FLOAT8 | {"num_bits": 4}}, "kv_cache_scheme.num_bits 4"),
    "names": ({"exclude_modules": "lm_head"}, "exclude_modules must be a list"),
    "nested": ({"quantization": ["FP8"]}, "quantization must be an object"),
}


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD)
def test_a_bad_section_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read_config(raw_of(STATED | change))


@pytest.mark.parametrize(
    ("key", "module", "left_out"),
    [
        ("model.layers.1", "model.layers.1.self_attn.q_proj", True),
        ("model.layers.1", "model.layers.10.self_attn.q_proj", False),
        ("model.layers.*.self_attn*", "model.layers.3.self_attn.o_proj", True),
        ("*o_proj", "model.layers.3.self_attn.o_proj", True),
        ("o_proj", "model.layers.3.self_attn.o_proj", False),
        ("model.layers.?.mlp", "model.layers.3.mlp.experts.0.up_proj", True),
        ("model.layers.[0-2].mlp", "model.layers.3.mlp.experts.0.up_proj", False),
        ("*.*.*.*.*.*.*.*.*.*.*x", "model.layers.3.mlp.experts.0.up_proj", False),
    ],
)
def test_names_and_wildcards_that_are_excluded(key: str, module: str, left_out: bool) -> None:
    covers = read_config(raw_of(STATED | {"exclude_modules": [key]})).quantization.covers
    assert covers(module) is not left_out


def test_keys_and_values_as_the_checkpoint_asks(tmp_path: Path) -> None:
    """Its scales under its own names; `--kv-cache-dtype bfloat16` leaves them out."""
    raw = raw_of(STATED | {"kv_cache_quant_algo": "FP8"})
    config = read_config(raw)
    assert config.quantization.kv_cache is KvFormat.FP8
    tensors, modelopt = random_tensors(config, 3), {}
    for name, tensor in tensors.items():
        tensors[name] = tensor * 0.03 if name.endswith(("k_scale", "v_scale")) else tensor
    for name, tensor in tensors.items():
        side = name[-len("k_scale")]
        in_cache = name.endswith(("self_attn.k_scale", "self_attn.v_scale"))
        modelopt[name.replace(f"{side}_scale", f"{side}_proj.{side}_scale") if in_cache else name] = tensor.clone()
    write_checkpoint(tmp_path / "plain", raw, tensors)
    write_checkpoint(tmp_path / "modelopt", raw, modelopt)
    hidden = hidden_of(tmp_path / "modelopt")
    assert torch.equal(hidden, hidden_of(tmp_path / "plain"))
    assert not torch.equal(hidden, hidden_of(tmp_path / "modelopt", kv_cache_dtype="bfloat16"))

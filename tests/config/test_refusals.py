"""Formats and models that are not served: one line that names them and says what is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.toy import FP8_BLOCK, FP8_DYNAMIC, KV_FP8, per_tensor, raw_config
from octavo.checkpoints.folder import resolve_folder
from octavo.config.quantization import SERVED
from octavo.errors import CheckpointError, ConfigError
from octavo.models.registry import read_config, read_folder


def with_activations(**changes: Any) -> dict[str, Any]:
    group = FP8_DYNAMIC["config_groups"]["group_0"]
    activations = {"input_activations": group["input_activations"] | changes}
    return FP8_DYNAMIC | {"config_groups": {"group_0": group | activations}}


FORMATS: dict[str, tuple[dict[str, Any], str]] = {
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq"),
    "awq": ({"quant_method": "awq", "bits": 4, "version": "gemm"}, "awq"),
    "gguf": ({"quant_method": "gguf"}, "gguf"),
    "mxfp4": ({"quant_method": "mxfp4", "modules_to_not_convert": []}, "mxfp4"),
    "nvfp4 of compressed-tensors": (FP8_DYNAMIC | {"format": "nvfp4-pack-quantized"}, "nvfp4"),
    "modelopt": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt"),
    "modelopt, nested": ({"quant_method": "modelopt", "quantization": {"quant_algo": "FP8_PB_WO"}}, "FP8_PB_WO"),
    "modelopt, keys and values": (
        {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"},
        "kv_cache_quant_algo",
    ),
    "w4a16": (FP8_DYNAMIC | {"format": "pack-quantized"}, "pack-quantized"),
    "static, in blocks": (FP8_BLOCK | {"activation_scheme": "static"}, "static"),
    "one scale of the step": (with_activations(strategy="tensor"), "dynamic scale"),
    "one scale of the step, weights too": (
        per_tensor(with_activations(strategy="tensor"), static=False),
        "dynamic scale",
    ),
    "keys and values per head": (
        FP8_DYNAMIC | {"kv_cache_scheme": KV_FP8 | {"strategy": "attn_head"}},
        "kv_cache_scheme",
    ),
}


@pytest.mark.parametrize(("quantization", "word"), FORMATS.values(), ids=FORMATS)
def test_a_format_that_is_not_served(quantization: dict[str, Any], word: str) -> None:
    with pytest.raises(CheckpointError) as info:
        read_config(raw_config(quantization_config=quantization))
    said = str(info.value)
    assert word in said
    assert said.endswith(SERVED)
    assert "\n" not in said


def test_a_format_beside_a_config_that_does_not_state_it(tmp_path: Path) -> None:
    """ModelOpt's own file, without which such weights would pass for bfloat16."""
    (tmp_path / "config.json").write_text(json.dumps(raw_config(quantization_config=None)))
    read_folder(tmp_path)
    stated = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(stated))
    with pytest.raises(CheckpointError, match="NVFP4") as info:
        read_folder(tmp_path)
    assert str(info.value).endswith(SERVED)


def test_gguf_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(raw_config(quantization_config=None)))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match="GGUF"):
        resolve_folder(str(tmp_path / "model.gguf"), None)
    with pytest.raises(CheckpointError, match="GGUF"):
        read_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    read_folder(tmp_path)  # GGUF beside what is served


@pytest.mark.parametrize("architecture", ["DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM", "KimiLinearForCausalLM"])
def test_multi_head_latent_attention(architecture: str) -> None:
    with pytest.raises(CheckpointError, match="MLA") as info:
        read_config(raw_config(architectures=[architecture], model_type="x", kv_lora_rank=512))
    assert "Qwen3MoeForCausalLM" in str(info.value)


def test_multi_head_latent_attention_of_an_inner_config() -> None:
    raw = {"architectures": ["KimiK25ForConditionalGeneration"], "text_config": {"kv_lora_rank": 512}}
    with pytest.raises(CheckpointError, match="MLA"):
        read_config(raw)


@pytest.mark.parametrize("kind", [["yarn"], {"yarn": 1}, 4, True, "mrope", None], ids=str)
def test_a_rope_type_that_is_none(kind: object) -> None:
    with pytest.raises(CheckpointError, match="rope scaling"):
        read_config(raw_config(rope_scaling={"rope_type": kind, "factor": 2.0}))

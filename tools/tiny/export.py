"""Model <-> Hugging Face folder in compressed-tensors' FP8-dynamic format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tools.tiny import tokenizer
from tools.tiny.model import Model, Shape, quantize

IGNORE = ("lm_head", "re:.*mlp.gate$")


def quantization_config() -> dict[str, Any]:
    """One FP8 scale per output channel of a weight, one per token of an activation, computed as it runs."""
    common = {"num_bits": 8, "type": "float", "symmetric": True, "group_size": None}
    group = {
        "targets": ["Linear"],
        "weights": {**common, "strategy": "channel", "dynamic": False},
        "input_activations": {**common, "strategy": "token", "dynamic": True},
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": list(IGNORE),
        "kv_cache_scheme": None,
    }


def model_config(shape: Shape) -> dict[str, Any]:
    """`config.json` of `shape`."""
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.top_k * shape.expert_width,
        "moe_intermediate_size": shape.expert_width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "num_experts": shape.experts,
        "num_experts_per_tok": shape.top_k,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.rope_theta,
        "max_position_embeddings": shape.context,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.IM_END,
        "pad_token_id": tokenizer.END_OF_TEXT,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "quantization_config": quantization_config(),
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_texts(folder: Path, shape: Shape) -> None:
    """Write everything but the weights and the model card."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", model_config(shape))
    stops = [tokenizer.IM_END, tokenizer.END_OF_TEXT]
    generation = {"do_sample": False, "eos_token_id": stops, "pad_token_id": tokenizer.END_OF_TEXT}
    _write_json(folder / "generation_config.json", generation)
    tokenizer.write(folder, context=shape.context)


def tensor_names(shape: Shape) -> dict[str, tuple[str, int | None]]:
    """Checkpoint name -> (our parameter's name, expert or None), without the scales."""
    names: dict[str, tuple[str, int | None]] = {
        "model.embed_tokens.weight": ("embed", None),
        "model.norm.weight": ("norm.weight", None),
        "lm_head.weight": ("head", None),
    }
    for i in range(shape.layers):
        ours, theirs = f"attention.{i}", f"model.layers.{i}.self_attn"
        names[f"model.layers.{i}.input_layernorm.weight"] = (f"{ours}.norm.weight", None)
        names[f"model.layers.{i}.post_attention_layernorm.weight"] = (f"experts.{i}.norm.weight", None)
        for part in "qkvo":
            names[f"{theirs}.{part}_proj.weight"] = (f"{ours}.{part}", None)
        for part in "qk":
            names[f"{theirs}.{part}_norm.weight"] = (f"{ours}.{part}_norm.weight", None)
        names[f"model.layers.{i}.mlp.gate.weight"] = (f"experts.{i}.router", None)
        for e in range(shape.experts):
            for part in ("gate", "up", "down"):
                names[f"model.layers.{i}.mlp.experts.{e}.{part}_proj.weight"] = (f"experts.{i}.{part}", e)
    return names


def save(model: Model, folder: Path) -> None:
    """Write `model` as a complete folder."""
    write_texts(folder, model.shape)
    parameters = {name: p.detach().float().cpu() for name, p in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for name, (ours, expert) in tensor_names(model.shape).items():
        value = parameters[ours] if expert is None else parameters[ours][expert]
        if name.endswith("_proj.weight"):
            weight, scale = quantize(value, scale_dtype=torch.bfloat16)
            tensors[name], tensors[f"{name}_scale"] = weight.contiguous(), scale
        else:
            tensors[name] = value.bfloat16()
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})


@torch.no_grad()
def load(folder: Path, model: Model) -> None:
    """Fill `model` with the weights of a folder that `save` wrote."""
    tensors = load_file(str(folder / "model.safetensors"))
    parameters = dict(model.named_parameters())
    for name, (ours, expert) in tensor_names(model.shape).items():
        value = tensors[name].float()
        if f"{name}_scale" in tensors:
            value = value * tensors[f"{name}_scale"].float()
        (parameters[ours] if expert is None else parameters[ours][expert]).copy_(value)


def save_bf16(source: Path, folder: Path) -> None:
    """Write the folder `source` again with its weights dequantised to plain bf16."""
    for path in source.iterdir():
        if path.suffix == ".json" and path.name != "config.json":
            shutil.copy(path, folder)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    _write_json(folder / "config.json", config)
    tensors = load_file(str(source / "model.safetensors"))
    plain: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if f"{name}_scale" in tensors:
            plain[name] = (value.float() * tensors[f"{name}_scale"].float()).bfloat16()
        elif not name.endswith("_scale"):
            plain[name] = value
    save_file(plain, str(folder / "model.safetensors"), metadata={"format": "pt"})

"""Small checkpoints of every family with random weights, and batches for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from octavo.config import WeightFormat
from octavo.models.config import ModelConfig
from octavo.models.forward_batch import ForwardBatch
from octavo.models.kv_cache import KVCache
from octavo.models.placing import fresh_memory
from octavo.ops.activations import BLOCK, FP8
from octavo.ops.activations import blocks as count_blocks
from octavo.ops.delta_net import StateUse

CPU = torch.device("cpu")
FP8_DYNAMIC: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {
                "num_bits": 8,
                "type": "float",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
    "ignore": ["lm_head", "re:.*mlp.gate$"],
}

KV_FP8: dict[str, Any] = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}
"""The kv_cache_scheme of compressed-tensors: keys and values in FP8, with a scale for each layer's."""

FP8_BLOCK: dict[str, Any] = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
    "modules_to_not_convert": ["lm_head"],
}


def per_tensor(quantization: dict[str, Any] = FP8_DYNAMIC, *, static: bool = True) -> dict[str, Any]:
    """That of compressed-tensors with one scale for each matrix, and for its inputs a static one or one per token."""
    group = quantization["config_groups"]["group_0"]
    inputs = {"strategy": "tensor", "dynamic": False} if static else {}
    weights = group["weights"] | {"strategy": "tensor"}
    group = group | {"weights": weights, "input_activations": group["input_activations"] | inputs}
    return quantization | {"config_groups": {"group_0": group}}


AUTO_FP8: dict[str, Any] = {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}
"""As AutoFP8 writes: one scale for each matrix, and one for its inputs."""


def raw_config(**changes: Any) -> dict[str, Any]:
    """A `config.json` with a sparse MLP in every layer, FP8-dynamic unless changed."""
    raw: dict[str, Any] = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 96,
        "moe_intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "hidden_act": "silu",
        "attention_bias": False,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "eos_token_id": 1,
        "torch_dtype": "bfloat16",
        "quantization_config": FP8_DYNAMIC,
    }
    raw |= changes
    return {name: value for name, value in raw.items() if value is not None}


def raw_mixtral(**changes: Any) -> dict[str, Any]:
    """A `config.json` of Mixtral, FP8-dynamic unless changed."""
    raw: dict[str, Any] = {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "max_position_embeddings": 512,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "eos_token_id": 1,
        "torch_dtype": "bfloat16",
        "quantization_config": FP8_DYNAMIC | {"ignore": ["lm_head", "re:.*block_sparse_moe.gate$"]},
    }
    raw |= changes
    return {name: value for name, value in raw.items() if value is not None}


def raw_qwen3(**changes: Any) -> dict[str, Any]:
    """A `config.json` of Qwen3, dense, FP8-dynamic unless changed."""
    left_out = ("moe_intermediate_size", "num_experts", "num_experts_per_tok", "norm_topk_prob", "decoder_sparse_step")
    raw = raw_config(**dict.fromkeys((*left_out, "mlp_only_layers")))
    raw |= {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"} | changes
    return {name: value for name, value in raw.items() if value is not None}


def raw_qwen2_moe(**changes: Any) -> dict[str, Any]:
    """A `config.json` of Qwen2-MoE, FP8-dynamic unless changed."""
    raw = raw_config(head_dim=None, attention_bias=None)
    raw |= {"architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "shared_expert_intermediate_size": 80}
    raw |= {"quantization_config": FP8_DYNAMIC | {"ignore": ["lm_head", "re:.*mlp.gate$", "re:.*shared_expert_gate$"]}}
    return {name: value for name, value in (raw | changes).items() if value is not None}


def raw_olmoe(**changes: Any) -> dict[str, Any]:
    """A `config.json` of OLMoE, FP8-dynamic unless changed."""
    left_out = ("head_dim", "moe_intermediate_size", "decoder_sparse_step", "mlp_only_layers", "use_sliding_window")
    raw = raw_config(**dict.fromkeys(left_out), intermediate_size=48, rms_norm_eps=1e-5)
    raw |= {"architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "pad_token_id": None} | changes
    return {name: value for name, value in raw.items() if value is not None}


def raw_glm4_moe(**changes: Any) -> dict[str, Any]:
    """A `config.json` of GLM-4.5, FP8-dynamic unless changed; its first layer is dense."""
    left_out = ("num_experts", "decoder_sparse_step", "mlp_only_layers", "use_sliding_window")
    raw = raw_config(**dict.fromkeys(left_out), rms_norm_eps=1e-5)
    raw |= {
        "architectures": ["Glm4MoeForCausalLM"],
        "model_type": "glm4_moe",
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "first_k_dense_replace": 1,
        "use_qk_norm": False,
        "partial_rotary_factor": 0.5,
        "num_nextn_predict_layers": 1,
    }
    return {name: value for name, value in (raw | changes).items() if value is not None}


def raw_minimax_m2(**changes: Any) -> dict[str, Any]:
    """A `config.json` of MiniMax-M2, FP8-dynamic unless changed."""
    raw = raw_mixtral(rms_norm_eps=1e-6, head_dim=16)
    raw |= {
        "architectures": ["MiniMaxM2ForCausalLM"],
        "model_type": "minimax_m2",
        "rotary_dim": 8,
        "scoring_func": "sigmoid",
        "use_routing_bias": True,
        "use_qk_norm": True,
        "qk_norm_type": "per_layer",
        "shared_intermediate_size": 0,
        "use_mtp": True,
        "num_mtp_modules": 3,
    }
    return {name: value for name, value in (raw | changes).items() if value is not None}


def raw_qwen3_next(**changes: Any) -> dict[str, Any]:
    """A `config.json` of Qwen3-Next, FP8-dynamic unless changed; its first two layers are Gated DeltaNet."""
    raw = raw_config(head_dim=32)
    raw |= {
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "shared_expert_intermediate_size": 80,
        "full_attention_interval": 3,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 24,
        "linear_conv_kernel_dim": 4,
        "partial_rotary_factor": 0.25,
        "quantization_config": FP8_DYNAMIC
        | {"ignore": ["lm_head", "re:.*mlp.gate$", "re:.*shared_expert_gate$", "re:.*in_proj_ba$"]},
    }
    return {name: value for name, value in (raw | changes).items() if value is not None}


def raw_qwen3_5_moe(**changes: Any) -> dict[str, Any]:
    """A `config.json` of Qwen3.5-MoE's text, FP8-dynamic unless changed; its first two layers are Gated DeltaNet."""
    raw = raw_qwen3_next(**dict.fromkeys(("intermediate_size", "decoder_sparse_step", "mlp_only_layers")))
    del raw["norm_topk_prob"]
    raw |= {
        "architectures": ["Qwen3_5MoeForCausalLM"],
        "model_type": "qwen3_5_moe_text",
        "attn_output_gate": True,
        "shared_expert_intermediate_size": raw["moe_intermediate_size"],
        "quantization_config": FP8_DYNAMIC
        | {"ignore": ["lm_head", "re:.*mlp.gate$", "re:.*shared_expert_gate$", "re:.*in_proj_[ab]$"]},
    }
    return {name: value for name, value in (raw | changes).items() if value is not None}


RAW: dict[str, Callable[..., dict[str, Any]]] = {
    "qwen3_moe": raw_config,
    "qwen3": raw_qwen3,
    "qwen2_moe": raw_qwen2_moe,
    "mixtral": raw_mixtral,
    "olmoe": raw_olmoe,
    "glm4_moe": raw_glm4_moe,
    "minimax_m2": raw_minimax_m2,
    "qwen3_next": raw_qwen3_next,
    "qwen3_5_moe_text": raw_qwen3_5_moe,
}
"""model_type -> a `config.json` of it."""


def random_tensors(config: ModelConfig, seed: int) -> dict[str, torch.Tensor]:
    """Checkpoint tensors of order-one activations; FP8 weights quantised from normal ones, scales in float32."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    parameters = config.place_parameters(fresh_memory(CPU))
    for name, view in parameters.sources.items():
        if name.endswith((".weight_scale", ".weight_scale_inv")):
            continue
        if name.endswith(".input_scale"):  # some of which cut the largest numbers
            tensors[name] = 0.004 * 4 ** torch.rand((), generator=generator)
            continue
        noise = torch.randn(view.shape, generator=generator)
        if view.dtype == FP8:
            weight = noise * _gain(name) / view.shape[1] ** 0.5
            if config.quantization.format is WeightFormat.FP8_BLOCK:
                scale = _block_scales(weight)
                every = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[: len(weight), : weight.shape[1]]
            elif config.quantization.format in (WeightFormat.FP8_TENSOR, WeightFormat.FP8_STATIC):
                every = scale = weight.abs().amax() / 448
            else:
                every = scale = weight.abs().amax(1, keepdim=True) / 448
            tensors[name] = (weight / every).clamp(-448, 448).to(FP8)
            tensors[f"{name.removesuffix('weight')}{config.quantization.scale_name}"] = scale
        elif view.ndim == 2:
            tensors[name] = (noise * _gain(name) / view.shape[1] ** 0.5).to(view.dtype)
        elif view.ndim == 3:
            tensors[name] = (noise * 0.5).to(view.dtype)
        elif name.endswith("A_log"):
            tensors[name] = noise * 0.7 - 1.5
        else:
            from_zero = name.endswith("bias") or (parameters.offset_norms and "linear_attn" not in name)
            tensors[name] = (noise * 0.1 + (0.0 if from_zero else 1.0)).to(view.dtype)
    return tensors


def _block_scales(weight: torch.Tensor) -> torch.Tensor:
    """amax / 448 of each block of 128 x 128."""
    rows, columns = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -columns % BLOCK, 0, -rows % BLOCK))
    return padded.view(count_blocks(rows), BLOCK, count_blocks(columns), BLOCK).abs().amax((1, 3)) / 448


def _gain(name: str) -> float:
    """Embeddings of order one, branches that add to them rather than drown them, routers that prefer some experts."""
    gains = {
        "embed_tokens": 8.0,
        "o_proj": 0.2,
        "out_proj": 0.2,
        "down_proj": 0.2,
        "w2": 0.2,
        "mlp.gate.": 3.0,
        "moe.gate.": 3.0,
    }
    return next((gain for part, gain in gains.items() if part in name), 1.0)


def write_checkpoint(folder: Path, raw: dict[str, Any], tensors: dict[str, torch.Tensor], *, shards: int = 1) -> None:
    """A model folder: config.json and safetensors, with an index if there are several shards."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    metadata = {"format": "pt"}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata)
        return
    names = sorted(tensors)
    files = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(files.values())):
        save_file({n: tensors[n] for n in names if files[n] == file}, folder / file, metadata)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def allocate_cache(config: ModelConfig, *, num_blocks: int, block_size: int) -> KVCache:
    """A cache full of NaN: what is not written must not be seen."""
    cache = KVCache.allocate(
        config.cache, num_blocks=num_blocks, num_states=num_blocks, block_size=block_size, device=CPU
    )
    for layer in cache.layers:
        layer.fill_(torch.nan)
    return cache


def make_batch(chunks: list[tuple[list[int], int, int, list[int]]], *, block_size: int, columns: int) -> ForwardBatch:
    """A batch of (tokens of the request, first position, count, block ids); its state has the number of its first block."""
    tables = torch.full((len(chunks), columns), -1, dtype=torch.int32)
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    starts = [0]
    for row, (tokens, start, count, blocks) in enumerate(chunks):
        tables[row, : len(blocks)] = torch.tensor(blocks, dtype=torch.int32)
        places = range(start, start + count)
        ids += tokens[start : start + count]
        positions += places
        slots += [blocks[p // block_size] * block_size + p % block_size for p in places]
        starts.append(len(ids))
    return ForwardBatch(
        token_ids=torch.tensor(ids, dtype=torch.int64),
        positions=torch.tensor(positions, dtype=torch.int64),
        slot_mapping=torch.tensor(slots, dtype=torch.int64),
        block_tables=tables,
        chunk_starts=tuple(starts),
        context_lens=tuple(start + count for _, start, count, _ in chunks),
        states=tuple(StateUse(blocks[0] if start else -1, blocks[0]) for _, start, _, blocks in chunks),
    )

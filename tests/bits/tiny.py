"""A Qwen3-MoE of the real kind, as small as can be: 128 experts of which 8 are chosen, FP8, random weights."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from bits.schedules import Machine
from octavo.config.format_choice import AS_STATED, FormatChoice
from octavo.models.load import load_model

HIDDEN = 32
CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "vocab_size": 61,
    "hidden_size": HIDDEN,
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "max_position_embeddings": 64,
    "eos_token_id": 58,
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False},
                "input_activations": {
                    "num_bits": 8,
                    "type": "float",
                    "strategy": "token",
                    "symmetric": True,
                    "dynamic": True,
                },
            }
        },
        "ignore": ["lm_head", "re:.*mlp.gate$"],
    },
}


@functools.cache
def tiny_machine(poison: int | None = None, kv_cache_dtype: str = "auto") -> Machine:
    """The model, loaded once per session; token `poison` has an embedding of NaN."""
    return _load(CONFIG, poison, FormatChoice(kv_cache_dtype=kv_cache_dtype))


def _load(raw: dict[str, Any], poison: int | None = None, choice: FormatChoice = AS_STATED) -> Machine:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(raw))
        loaded = load_model(
            Path(folder), load_format="dummy", device=torch.device("cpu"), seed=3, progress=False, choice=choice
        )
    if poison is not None:
        loaded.model._embedding[poison] = torch.nan
    config = loaded.config
    return Machine(
        loaded.model,
        vocab_size=config.vocab_size,
        eos_token_id=config.eos_token_ids[0],
        cache=config.cache,
    )


HYBRID = {
    **CONFIG,
    "architectures": ["Qwen3NextForCausalLM"],
    "num_hidden_layers": 3,
    "full_attention_interval": 2,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "head_dim": 16,
    "shared_expert_intermediate_size": 32,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 8,
}
"""Gated DeltaNet before and behind a layer of attention."""


@functools.cache
def hybrid_machine() -> Machine:
    """A model with recurrent layers, loaded once per session."""
    return _load(HYBRID)

"""How the checkpoints of an architecture are written: their config, their names, and which part of a model each holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from tools.tiny import tokenizer
from tools.tiny.hybrid import HybridShape
from tools.tiny.model import Shape
from tools.tiny.rounding import BLOCK, dequantize_blocks, quantize, quantize_blocks


@dataclasses.dataclass(frozen=True)
class Source:
    """A part of one of the model's parameters."""

    parameter: str
    part: int | slice | None = None
    """An expert, or rows; None: all of it."""
    offset: float = 0.0
    """What is taken from it where it is stored."""
    dtype: torch.dtype = torch.bfloat16
    """In which it is stored, unless it is quantised."""

    def of(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The part, a view."""
        whole = parameters[self.parameter]
        return whole if self.part is None else whole[self.part]


class Published(Protocol):
    """An architecture with a format."""

    @property
    def scale(self) -> str:
        """What stands for `weight` in the name of a scale."""
        ...

    def config(self) -> dict[str, Any]:
        """`config.json`."""
        ...

    def sources(self) -> dict[str, Source]:
        """The source of each tensor by its name in a checkpoint, without the scales."""
        ...

    def is_quantized(self, name: str) -> bool:
        """Whether the tensor `name` has a scale."""
        ...

    def quantize(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """weight (N, K) as codes in float8_e4m3fn and their scale."""
        ...

    def dequantize(self, codes: Tensor, scale: Tensor) -> Tensor:
        """The weight (N, K) in float32."""
        ...


def published(shape: Shape) -> Published:
    """How models of `shape` are written."""
    return Qwen35Moe(shape) if isinstance(shape, HybridShape) else Qwen3Moe(shape)


def _common(shape: Shape) -> dict[str, Any]:
    """What both architectures state."""
    return {
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "moe_intermediate_size": shape.expert_width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "num_experts": shape.experts,
        "num_experts_per_tok": shape.top_k,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rms_norm_eps": shape.eps,
        "max_position_embeddings": shape.context,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.IM_END,
        "pad_token_id": tokenizer.END_OF_TEXT,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def _common_sources(shape: Shape, *, offset: float) -> dict[str, Source]:
    """What stands at the same names in both architectures: embeddings, norms of hidden states, routers and experts."""
    sources = {
        "model.embed_tokens.weight": Source("embed"),
        "model.norm.weight": Source("norm.weight", offset=offset),
        "lm_head.weight": Source("head"),
    }
    for i in range(shape.layers):
        layer = f"model.layers.{i}"
        sources[f"{layer}.input_layernorm.weight"] = Source(f"mixers.{i}.norm.weight", offset=offset)
        sources[f"{layer}.post_attention_layernorm.weight"] = Source(f"experts.{i}.norm.weight", offset=offset)
        sources[f"{layer}.mlp.gate.weight"] = Source(f"experts.{i}.router")
        for e in range(shape.experts):
            for part in ("gate", "up", "down"):
                sources[f"{layer}.mlp.experts.{e}.{part}_proj.weight"] = Source(f"experts.{i}.{part}", e)
    return sources


def _attention_sources(layer: int, *, offset: float) -> dict[str, Source]:
    """The projections and norms of an attention layer."""
    ours, theirs = f"mixers.{layer}", f"model.layers.{layer}.self_attn"
    projections = {f"{theirs}.{part}_proj.weight": Source(f"{ours}.{part}") for part in "qkvo"}
    norms = {f"{theirs}.{part}_norm.weight": Source(f"{ours}.{part}_norm.weight", offset=offset) for part in "qk"}
    return projections | norms


@dataclasses.dataclass(frozen=True)
class Qwen3Moe:
    """Qwen3-MoE in compressed-tensors' FP8-dynamic format."""

    shape: Shape
    scale: str = "weight_scale"

    def config(self) -> dict[str, Any]:
        """See `Published`."""
        return _common(self.shape) | {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "intermediate_size": self.shape.top_k * self.shape.expert_width,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "rope_theta": self.shape.rope_theta,
            "use_sliding_window": False,
            "quantization_config": self._quantization_config(),
        }

    @staticmethod
    def _quantization_config() -> dict[str, Any]:
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
            "ignore": ["lm_head", "re:.*mlp.gate$"],
            "kv_cache_scheme": None,
        }

    def sources(self) -> dict[str, Source]:
        """See `Published`."""
        sources = _common_sources(self.shape, offset=0.0)
        for layer in range(self.shape.layers):
            sources |= _attention_sources(layer, offset=0.0)
        return sources

    def is_quantized(self, name: str) -> bool:
        """See `Published`."""
        return name.endswith("_proj.weight")

    def quantize(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """See `Published`."""
        return quantize(weight, scale_dtype=torch.bfloat16)

    def dequantize(self, codes: Tensor, scale: Tensor) -> Tensor:
        """See `Published`."""
        return codes.float() * scale.float()


KEPT = ("lm_head", "in_proj_a", "in_proj_b", "mlp.gate", "shared_expert_gate")
"""Modules that Qwen3.6-35B-A3B-FP8 keeps in bf16, of those that decode text."""


@dataclasses.dataclass(frozen=True)
class Qwen35Moe:
    """The text of Qwen3.5-MoE in block FP8, names and format as of Qwen3.6-35B-A3B-FP8; norms are stored as offsets from one."""

    shape: HybridShape
    scale: str = "weight_scale_inv"

    def config(self) -> dict[str, Any]:
        """See `Published`."""
        s = self.shape
        return _common(s) | {
            "architectures": ["Qwen3_5MoeForCausalLM"],
            "model_type": "qwen3_5_moe_text",
            "attn_output_gate": True,
            "mamba_ssm_dtype": "float32",
            "full_attention_interval": s.interval,
            "layer_types": [
                "full_attention" if s.has_attention(layer) else "linear_attention" for layer in range(s.layers)
            ],
            "shared_expert_intermediate_size": s.shared_width,
            "linear_num_key_heads": s.key_heads,
            "linear_num_value_heads": s.value_heads,
            "linear_key_head_dim": s.key_dim,
            "linear_value_head_dim": s.value_dim,
            "linear_conv_kernel_dim": s.taps,
            "partial_rotary_factor": s.rotary_share,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": s.rope_theta,
                "partial_rotary_factor": s.rotary_share,
            },
            "quantization_config": {
                "quant_method": "fp8",
                "fmt": "e4m3",
                "activation_scheme": "dynamic",
                "weight_block_size": [BLOCK, BLOCK],
                "modules_to_not_convert": list(KEPT),
            },
        }

    def sources(self) -> dict[str, Source]:
        """See `Published`."""
        sources = _common_sources(self.shape, offset=1.0)
        for layer in range(self.shape.layers):
            sources |= self._shared_sources(layer)
            attention = self.shape.has_attention(layer)
            sources |= _attention_sources(layer, offset=1.0) if attention else self._delta_sources(layer)
        return sources

    def _shared_sources(self, layer: int) -> dict[str, Source]:
        """The expert that all rows share."""
        ours, theirs, width = f"experts.{layer}", f"model.layers.{layer}.mlp", self.shape.shared_width
        return {
            f"{theirs}.shared_expert.gate_proj.weight": Source(f"{ours}.shared_gate_up", slice(0, width)),
            f"{theirs}.shared_expert.up_proj.weight": Source(f"{ours}.shared_gate_up", slice(width, None)),
            f"{theirs}.shared_expert.down_proj.weight": Source(f"{ours}.shared_down"),
            f"{theirs}.shared_expert_gate.weight": Source(f"{ours}.share"),
        }

    def _delta_sources(self, layer: int) -> dict[str, Source]:
        """A layer of Gated DeltaNet."""
        ours, theirs, channels = f"mixers.{layer}", f"model.layers.{layer}.linear_attn", self.shape.channels
        return {
            f"{theirs}.in_proj_qkv.weight": Source(f"{ours}.qkvz", slice(0, channels)),
            f"{theirs}.in_proj_z.weight": Source(f"{ours}.qkvz", slice(channels, None)),
            f"{theirs}.in_proj_b.weight": Source(f"{ours}.write"),
            f"{theirs}.in_proj_a.weight": Source(f"{ours}.decay"),
            f"{theirs}.conv1d.weight": Source(f"{ours}.taps"),
            f"{theirs}.A_log": Source(f"{ours}.log_decay", dtype=torch.float32),
            f"{theirs}.dt_bias": Source(f"{ours}.step_bias", dtype=torch.float32),
            f"{theirs}.norm.weight": Source(f"{ours}.head_norm.weight"),
            f"{theirs}.out_proj.weight": Source(f"{ours}.out"),
        }

    def is_quantized(self, name: str) -> bool:
        """See `Published`."""
        ends = ("_proj.weight", "in_proj_qkv.weight", "in_proj_z.weight")
        return name.endswith(ends)

    def quantize(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """See `Published`."""
        return quantize_blocks(weight)

    def dequantize(self, codes: Tensor, scale: Tensor) -> Tensor:
        """See `Published`."""
        return dequantize_blocks(codes, scale)

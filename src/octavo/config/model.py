"""The architecture of a model, as its `config.json` states it."""

from __future__ import annotations

import dataclasses
import enum
import math
import re
from pathlib import Path
from typing import Any

from octavo.config.json_file import read_json_object
from octavo.errors import CheckpointError


class WeightFormat(enum.Enum):
    """How linear weights are stored."""

    BF16 = "bf16"
    FP8_DYNAMIC = "compressed-tensors FP8 (per-channel weights, per-token activations)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Qwen3-MoE's shape. Names follow Hugging Face's `Qwen3MoeConfig`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    """Of dense MLP layers."""
    moe_intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_experts: int
    num_experts_per_tok: int
    norm_topk_prob: bool
    decoder_sparse_step: int
    mlp_only_layers: tuple[int, ...]
    max_position_embeddings: int
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool
    attention_bias: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    weight_format: WeightFormat
    unquantized: tuple[str, ...]
    """Module names or `re:` patterns that stay in bf16 (compressed-tensors' `ignore`)."""

    def is_sparse(self, layer: int) -> bool:
        """Whether `layer` has experts: not in mlp_only_layers, and every decoder_sparse_step-th layer."""
        return (
            layer not in self.mlp_only_layers and self.num_experts > 0 and (layer + 1) % self.decoder_sparse_step == 0
        )

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of bf16 keys and values of one token over all layers."""
        return 2 * 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim

    def is_quantized(self, module: str) -> bool:
        """Whether the linear layer named `module` (as in the checkpoint) is stored in FP8."""
        return self.weight_format is WeightFormat.FP8_DYNAMIC and not any(
            re.match(pattern[3:], module) if pattern.startswith("re:") else pattern == module
            for pattern in self.unquantized
        )

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Read `folder/config.json`, and the eos ids of `folder/generation_config.json` if there is one.

        Raises:
            CheckpointError: a file is missing or not a JSON object, or states something that is not served.
        """
        config = cls.from_json(read_json_object(folder / "config.json"), file=str(folder / "config.json"))
        generation = folder / "generation_config.json"
        if not generation.exists():
            return config
        fields = _Fields(_stated(read_json_object(generation)), str(generation))
        ids = dict.fromkeys(config.eos_token_ids + fields.token_ids("eos_token_id", config.vocab_size))
        return dataclasses.replace(config, eos_token_ids=tuple(ids))

    @classmethod
    def from_json(cls, raw: dict[str, Any], *, file: str = "config.json") -> ModelConfig:
        """Build from the parsed `config.json`; defaults are those of Hugging Face's `Qwen3MoeConfig`, for nulls too.

        Raises:
            CheckpointError: a field is missing, of the wrong type, out of range, or states something not served.
        """
        fields = _Fields(_stated(raw), file)
        _require_served(fields)
        hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
        vocab = fields.count("vocab_size")
        weight_format, unquantized = _read_quantization(fields)
        bos = fields.token_ids("bos_token_id", vocab)
        config = cls(
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=fields.count("intermediate_size"),
            moe_intermediate_size=fields.count("moe_intermediate_size"),
            num_hidden_layers=fields.count("num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=fields.count("num_key_value_heads"),
            head_dim=fields.count("head_dim", hidden // heads),
            num_experts=fields.count("num_experts", fields.raw.get("num_local_experts"), least=0),
            num_experts_per_tok=fields.count("num_experts_per_tok"),
            norm_topk_prob=fields.flag("norm_topk_prob"),
            decoder_sparse_step=fields.count("decoder_sparse_step", 1),
            mlp_only_layers=fields.integers("mlp_only_layers"),
            max_position_embeddings=fields.count("max_position_embeddings"),
            rope_theta=_read_rope_theta(fields),
            rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
            tie_word_embeddings=fields.flag("tie_word_embeddings"),
            attention_bias=fields.flag("attention_bias"),
            bos_token_id=bos[0] if bos else None,
            eos_token_ids=fields.token_ids("eos_token_id", vocab),
            weight_format=weight_format,
            unquantized=unquantized,
        )
        _check_shape(config, fields)
        return config


def _stated(raw: dict[str, Any]) -> dict[str, Any]:
    """`raw` without what is null, in objects within it too: writers of configs write null for what is not set."""
    return {
        name: _stated(value) if isinstance(value, dict) else value for name, value in raw.items() if value is not None
    }


@dataclasses.dataclass(frozen=True)
class _Fields:
    """Typed access to a JSON object; a missing field or a wrong type is a CheckpointError that names it."""

    raw: dict[str, Any]
    file: str

    def refuse(self, message: str) -> CheckpointError:
        return CheckpointError(message, file=self.file)

    def count(self, name: str, default: Any = None, *, least: int = 1) -> int:
        value = self.raw.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.refuse(f"{name} must be an integer of at least {least}, is {value!r}")
        return value

    def number(self, name: str, default: float) -> float:
        value = self.raw.get(name, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
            raise self.refuse(f"{name} must be a positive number, is {value!r}")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self.raw.get(name, False)
        if not isinstance(value, bool):
            raise self.refuse(f"{name} must be true or false, is {value!r}")
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        value = self.raw.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
            raise self.refuse(f"{name} must be a list of integers, is {value!r}")
        return tuple(value)

    def token_ids(self, name: str, vocab_size: int) -> tuple[int, ...]:
        """One id, a list of ids or null; ids outside the vocabulary are refused."""
        value = self.raw.get(name)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        for token in ids:
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocab_size:
                raise self.refuse(f"{name} must hold token ids below vocab_size {vocab_size}, holds {token!r}")
        return tuple(ids)


def _require_served(fields: _Fields) -> None:
    """Refuse architectures and options that are not served."""
    architectures = fields.raw.get("architectures") or ["Qwen3MoeForCausalLM"]
    if architectures != ["Qwen3MoeForCausalLM"] or fields.raw.get("model_type", "qwen3_moe") != "qwen3_moe":
        raise fields.refuse(
            f"architecture {architectures!r} (model_type {fields.raw.get('model_type')!r}) is not served; "
            "Qwen3MoeForCausalLM is"
        )
    if (act := fields.raw.get("hidden_act", "silu")) != "silu":
        raise fields.refuse(f"hidden_act {act!r} is not served; silu is")
    if fields.raw.get("use_sliding_window", False):
        raise fields.refuse("use_sliding_window true is not served; full attention is")
    for name in ("dtype", "torch_dtype"):
        if (dtype := fields.raw.get(name) or "bfloat16") not in ("bfloat16", "float16", "float32"):
            raise fields.refuse(f"{name} {dtype!r} is not served; bfloat16, float16 and float32 are, all as bfloat16")


def _read_rope_theta(fields: _Fields) -> float:
    """The base of rotary embeddings, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`."""
    parameters = fields.raw.get("rope_parameters") or {}
    for rope in (parameters, fields.raw.get("rope_scaling") or {}):
        if not isinstance(rope, dict):
            raise fields.refuse(f"rope_parameters and rope_scaling must be objects, one is {rope!r}")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise fields.refuse(f"rope scaling {kind!r} is not served; default (no scaling) is")
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise fields.refuse("partial_rotary_factor other than 1 is not served")
    theta = parameters.get("rope_theta", fields.raw.get("rope_theta", 10000.0))
    return _Fields({"rope_theta": theta}, fields.file).number("rope_theta", 10000.0)


_SERVED_FORMATS = (
    "served are plain bfloat16 (no quantization_config) and compressed-tensors float-quantized with 8-bit float "
    "weights per channel, symmetric, and dynamic 8-bit float activations per token (FP8-dynamic)"
)
_STATUSES = ("compressed", "frozen")
"""Of how the weights came to be; how they are stored, `format` says, and each tensor's type is checked."""
_DEFAULTS = {"symmetric": True, "dynamic": False}
_WEIGHTS = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
_ACTIVATIONS = {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True, "dynamic": True}


def _read_quantization(fields: _Fields) -> tuple[WeightFormat, tuple[str, ...]]:
    """The weight format, and the names or patterns of the layers it leaves out.

    Field names: `QuantizationConfig`, `QuantizationScheme` and `QuantizationArgs` of compressed-tensors.
    """
    quantization = fields.raw.get("quantization_config", fields.raw.get("compression_config"))
    if quantization is None:
        return WeightFormat.BF16, ()
    if not isinstance(quantization, dict):
        raise fields.refuse(f"quantization_config must be an object, is {quantization!r}")

    def require(name: str, value: object, served: tuple[object, ...]) -> None:
        if value not in served:
            raise fields.refuse(f"quantization_config: {name} {value!r} is not served; {_SERVED_FORMATS}")

    require("quant_method", quantization.get("quant_method"), ("compressed-tensors",))
    require("format", quantization.get("format"), ("float-quantized",))
    require("quantization_status", quantization.get("quantization_status", "compressed"), _STATUSES)
    for name in ("kv_cache_scheme", "sparsity_config", "transform_config"):
        require(name, None if _changes_nothing(name, quantization.get(name)) else quantization[name], (None,))
    groups = quantization.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1 or not isinstance(group := next(iter(groups.values())), dict):
        raise fields.refuse(f"quantization_config: config_groups must hold one group; {_SERVED_FORMATS}")
    require("targets", group.get("targets"), (["Linear"],))
    require("group format", group.get("format") or "float-quantized", ("float-quantized",))
    require("output_activations", group.get("output_activations"), (None,))
    for part, expected in (("weights", _WEIGHTS), ("input_activations", _ACTIVATIONS)):
        arguments = group.get(part)
        if not isinstance(arguments, dict):
            raise fields.refuse(f"quantization_config: {part} is missing; {_SERVED_FORMATS}")
        for name, served in expected.items():
            require(f"{part}.{name}", arguments.get(name, _DEFAULTS.get(name)), (served,))
    ignore = quantization.get("ignore") or []
    if not isinstance(ignore, list) or not all(isinstance(item, str) for item in ignore):
        raise fields.refuse(f"quantization_config: ignore must be a list of names or re: patterns, is {ignore!r}")
    for pattern in ignore:
        _check_pattern(pattern, fields)
    return WeightFormat.FP8_DYNAMIC, tuple(ignore)


def _changes_nothing(name: str, part: Any) -> bool:
    """Whether a part of a quantization_config leaves weights as they are: empty, or a sparsity that leaves nothing out."""
    return not part or (name == "sparsity_config" and isinstance(part, dict) and part.get("format") == "dense")


def _check_pattern(pattern: str, fields: _Fields) -> None:
    try:
        re.compile(pattern.removeprefix("re:"))
    except re.error as exc:
        raise fields.refuse(f"quantization_config: ignore holds the bad pattern {pattern!r}: {exc}") from exc


def _check_shape(config: ModelConfig, fields: _Fields) -> None:
    """Refuse numbers that contradict each other."""
    if config.num_attention_heads % config.num_key_value_heads:
        raise fields.refuse(
            f"num_attention_heads {config.num_attention_heads} must be a multiple of "
            f"num_key_value_heads {config.num_key_value_heads}"
        )
    if config.head_dim % 2:
        raise fields.refuse(f"head_dim must be even for rotary embeddings, is {config.head_dim}")
    if config.num_experts and config.num_experts_per_tok > config.num_experts:
        raise fields.refuse(
            f"num_experts_per_tok {config.num_experts_per_tok} must not exceed num_experts {config.num_experts}"
        )

"""How a checkpoint stores its linear weights, as its `config.json` states it."""

from __future__ import annotations

import dataclasses
import enum
import re
from typing import Any

from octavo.config.json_fields import JsonFields


class WeightFormat(enum.Enum):
    """How linear weights are stored."""

    BF16 = "bf16"
    FP8_DYNAMIC = "compressed-tensors FP8 (per-channel weights, per-token activations)"


@dataclasses.dataclass(frozen=True)
class Quantization:
    """The format of linear weights, and the layers that it leaves out."""

    format: WeightFormat
    unquantized: tuple[str, ...]
    """Module names or `re:` patterns that stay in bf16 (compressed-tensors' `ignore`)."""

    def covers(self, module: str) -> bool:
        """Whether the linear layer named `module` (as in the checkpoint) is stored in FP8."""
        return self.format is WeightFormat.FP8_DYNAMIC and not any(
            re.match(pattern[3:], module) if pattern.startswith("re:") else pattern == module
            for pattern in self.unquantized
        )


_SERVED_FORMATS = (
    "served are plain bfloat16 (no quantization_config) and compressed-tensors float-quantized with 8-bit float "
    "weights per channel, symmetric, and dynamic 8-bit float activations per token (FP8-dynamic)"
)
_STATUSES = ("compressed", "frozen")
"""Of how the weights came to be; how they are stored, `format` says, and each tensor's type is checked."""
_DEFAULTS = {"symmetric": True, "dynamic": False}
_WEIGHTS = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
_ACTIVATIONS = {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True, "dynamic": True}


def read_quantization(fields: JsonFields) -> Quantization:
    """How the checkpoint's linear weights are stored.

    Field names: `QuantizationConfig`, `QuantizationScheme` and `QuantizationArgs` of compressed-tensors.

    Raises:
        CheckpointError: the config states a format that is not served.
    """
    quantization = fields.raw.get("quantization_config", fields.raw.get("compression_config"))
    if quantization is None:
        return Quantization(WeightFormat.BF16, ())
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
    return Quantization(WeightFormat.FP8_DYNAMIC, tuple(ignore))


def _changes_nothing(name: str, part: Any) -> bool:
    """Whether a part of a quantization_config leaves weights as they are: empty, or a sparsity that leaves nothing out."""
    return not part or (name == "sparsity_config" and isinstance(part, dict) and part.get("format") == "dense")


def _check_pattern(pattern: str, fields: JsonFields) -> None:
    try:
        re.compile(pattern.removeprefix("re:"))
    except re.error as exc:
        raise fields.refuse(f"quantization_config: ignore holds the bad pattern {pattern!r}: {exc}") from exc

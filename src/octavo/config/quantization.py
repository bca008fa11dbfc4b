"""How a checkpoint stores its linear weights, as its `config.json` states it."""

from __future__ import annotations

import dataclasses
import enum
import fnmatch
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

from octavo.config.json_fields import JsonFields
from octavo.config.patterns import compile_pattern

PLAIN = re.compile(r"[\w.-]+")
"""A key that is a name and no pattern, though a dot is one."""
EXPERT = re.compile(r"(.*\.experts)\.\d+\.")
GATES = r"re:(.*\.)?shared_expert_gate$"
HEADS_AND_ROUTERS = r"re:(.*\.)?(lm_head|gate)$"


class WeightFormat(enum.Enum):
    """How linear weights are stored."""

    BF16 = "bf16"
    FP8_DYNAMIC = "compressed-tensors FP8 (per-channel weights, per-token activations)"
    FP8_ONLINE = "FP8 made of bfloat16 as it is loaded (per-channel weights, per-token activations)"
    FP8_TENSOR = "FP8 (one scale per weight matrix, per-token activations)"
    FP8_STATIC = "FP8 (one scale per weight matrix, one static scale for its activations)"
    FP8_BLOCK = "FP8 (weights in blocks of 128 x 128, activations per token in groups of 128)"


class KvFormat(enum.Enum):
    """How keys and values are kept; computed with as bfloat16 either way."""

    BF16 = "bfloat16"
    FP8 = "fp8_e4m3"

    @property
    def num_bytes(self) -> int:
        """Bytes of one number."""
        return 1 if self is KvFormat.FP8 else 2


SERVED = (
    "served are plain bfloat16 (no quantization_config), fp8 with weight_block_size [128, 128] and dynamic activations or without "
    "weight_block_size, modelopt with quant_algo FP8, and compressed-tensors float-quantized with 8-bit float weights and "
    "activations, symmetric: dynamic per token (FP8-dynamic) with weights per channel or tensor, static per tensor with weights "
    "per tensor, or in groups of 128 with weights in blocks of 128 x 128"
)
OF_THE_STEP = "one dynamic scale for all activations of a step is not served, as it would let the requests of a step change each other's answers"


@dataclasses.dataclass(frozen=True)
class Quantization:
    """The format of linear weights, and the layers that it leaves out."""

    format: WeightFormat
    unquantized: tuple[str, ...] = ()
    """Module names or `re:` patterns that stay in bf16 (compressed-tensors' `ignore`)."""
    scale_name: str = "weight_scale"
    """What a checkpoint calls the scales of a module."""

    skipped: tuple[str, ...] = ()
    """Names and patterns by transformers' rule (`modules_to_not_convert`), which stay in bf16 too."""
    excluded: tuple[str, ...] = ()
    """Names and wildcards of modules and of those around them (ModelOpt's `exclude_modules`), which stay in bf16 too."""
    method: str = ""
    """The quant_method that config.json states."""
    kv_cache: KvFormat = KvFormat.BF16
    """What keys and values are kept in: as the user says, else as the checkpoint was made for."""

    def covers(self, module: str) -> bool:
        """Whether the linear layer named `module` (as in the checkpoint) is stored in FP8."""
        return self.format is not WeightFormat.BF16 and not self._left_out.has(module)

    @functools.cached_property
    def _left_out(self) -> _LeftOut:
        return _LeftOut(self.unquantized, self.skipped, self.excluded)


class _LeftOut:
    """The modules that a format leaves out: a model has tens of thousands, asked for several times.

    Args:
        unquantized: names, and patterns of a name's beginning behind `re:`.
        skipped: keys of transformers' `should_convert_module`. Each names a module, one around it, or how a name ends; or it
            is a pattern of a name's beginning, up to a dot or the end. There the experts of a layer are one module, so that
            what skips it skips each of them.
        excluded: names and wildcards, of a module or one around it.
    """

    def __init__(self, unquantized: tuple[str, ...], skipped: tuple[str, ...], excluded: tuple[str, ...]) -> None:
        self._names = frozenset(name for name in unquantized if not name.startswith("re:"))
        self._patterns = [compile_pattern(name.removeprefix("re:")) for name in unquantized if name.startswith("re:")]
        self._plain = frozenset(key for key in skipped if PLAIN.fullmatch(key))
        self._odd = tuple(key for key in skipped if not PLAIN.fullmatch(key))
        self._odd_patterns = [compile_pattern(_up_to_a_dot(key)) for key in self._odd]
        self._excluded = frozenset(excluded)
        self._wildcards = [re.compile(fnmatch.translate(key)) for key in excluded if not PLAIN.fullmatch(key)]
        self._known: dict[str, bool] = {}

    def has(self, module: str) -> bool:
        """Whether `module` is left out."""
        known = self._known.get(module)
        if known is None:
            named = module in self._names or any(pattern.match(module) for pattern in self._patterns)
            known = self._known[module] = named or self._is_skipped(module) or self._is_excluded(module)
        return known

    def _is_skipped(self, module: str) -> bool:
        if not self._plain and not self._odd:
            return False
        experts = EXPERT.match(module)
        return self._skips(module) or (experts is not None and self._skips(experts[1]))

    def _is_excluded(self, module: str) -> bool:
        return bool(self._excluded) and any(
            name in self._excluded or any(wildcard.match(name) for wildcard in self._wildcards)
            for name in _around(module)
        )

    def _skips(self, name: str) -> bool:
        return (
            any(part in self._plain for part in _around(name))
            or any(name[start:] in self._plain for start in range(len(name)))
            or name.endswith(self._odd)
            or any(pattern.match(name) for pattern in self._odd_patterns)
        )


def _around(name: str) -> Iterator[str]:
    """The modules that `name` is in, outermost first, and itself."""
    return (name[:end] for end in (*(i for i, c in enumerate(name) if c == "."), len(name)))


def _up_to_a_dot(key: str) -> str:
    return rf"(?:{key})(?:(?<=\.)|(?=\.|$))"


def read_quantization(fields: JsonFields) -> Quantization:
    """How the checkpoint's linear weights are stored.

    Raises:
        CheckpointError: the config states a format that is not served.
    """
    stated = fields.raw.get("quantization_config", fields.raw.get("compression_config"))
    if stated is None:
        return Quantization(WeightFormat.BF16)
    if not isinstance(stated, dict):
        raise fields.refuse(f"quantization_config must be an object, is {stated!r}")
    part = QuantizationFields(stated, fields)
    method = stated.get("quant_method")
    part.require("quant_method", method, tuple(READERS))
    return dataclasses.replace(READERS[method](part), method=str(method))


@dataclasses.dataclass(frozen=True)
class QuantizationFields:
    """The fields of a quantization_config; one that states what is not served is a CheckpointError that says what is."""

    raw: dict[str, Any]
    config: JsonFields

    def require(self, name: str, value: object, served: tuple[object, ...]) -> None:
        """Refuse a `value` that is not among the `served` ones."""
        if value not in served:
            raise self.config.refuse(f"quantization_config: {name} {value!r} is not served; {SERVED}")

    def names(self, name: str) -> list[str]:
        """The list of names or patterns `name`, empty if it is missing."""
        value = self.raw.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.config.refuse(f"quantization_config: {name} must be a list of names, is {value!r}")
        return value


_STATUSES = ("compressed", "frozen")
"""Of how the weights came to be; how they are stored, `format` says, and each tensor's type is checked."""
_DEFAULTS: dict[str, Any] = {"symmetric": True, "dynamic": False, "strategy": "tensor"}
_FLOAT8: dict[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True}
_WEIGHTS = _FLOAT8 | {"dynamic": False}
_KV_CACHE = _WEIGHTS | {"strategy": "tensor"}
_BLOCKS = {"block_structure": [128, 128]}, {"dynamic": True, "strategy": "group", "group_size": 128}
_SCHEMES: dict[Any, dict[bool, tuple[WeightFormat, dict[str, Any], dict[str, Any]]]] = {
    "channel": {True: (WeightFormat.FP8_DYNAMIC, {}, {"dynamic": True, "strategy": "token"})},
    "tensor": {
        True: (WeightFormat.FP8_TENSOR, {}, {"dynamic": True, "strategy": "token"}),
        False: (WeightFormat.FP8_STATIC, {}, {"dynamic": False, "strategy": "tensor"}),
    },
    "block": {True: (WeightFormat.FP8_BLOCK, *_BLOCKS)},
}
"""Strategy of the weights, and whether activations are dynamic -> the format, and what else both must state."""


_FLOAT_FORMATS = ("float-quantized", "naive-quantized")
"""Of files: codes of 8-bit floats lie in both as they are (compressed-tensors, `CompressionFormat`)."""


def read_compressed_tensors(part: QuantizationFields) -> Quantization:
    """compressed-tensors: one group of float-quantized layers.

    Field names: `QuantizationConfig`, `QuantizationScheme` and `QuantizationArgs` of compressed-tensors.
    """
    stated = part.raw
    part.require("format", stated.get("format"), _FLOAT_FORMATS)
    part.require("quantization_status", stated.get("quantization_status", "compressed"), _STATUSES)
    kv_cache = KvFormat.BF16
    if isinstance(scheme := stated.get("kv_cache_scheme"), dict) and scheme:
        _require_all(part, "kv_cache_scheme", scheme, _KV_CACHE)
        kv_cache = KvFormat.FP8
    for name in ("sparsity_config", "transform_config"):
        part.require(name, None if _changes_nothing(name, stated.get(name)) else stated[name], (None,))
    groups = stated.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1 or not isinstance(group := next(iter(groups.values())), dict):
        raise part.config.refuse(f"quantization_config: config_groups must hold one group; {SERVED}")
    part.require("targets", group.get("targets"), (["Linear"],))
    part.require("group format", group.get("format") or "float-quantized", _FLOAT_FORMATS)
    part.require("output_activations", group.get("output_activations"), (None,))
    weights, activations = (_arguments(part, group, name) for name in ("weights", "input_activations"))
    if activations.get("dynamic") and activations.get("strategy") == "tensor":
        raise part.config.refuse(
            f"quantization_config: input_activations.strategy 'tensor', dynamic: {OF_THE_STEP}; {SERVED}"
        )
    strategy, dynamic = weights.get("strategy"), activations.get("dynamic", False)
    part.require("weights.strategy", strategy, tuple(_SCHEMES))
    part.require("input_activations.dynamic", dynamic, tuple(_SCHEMES[strategy]))
    weight_format, of_weights, of_activations = _SCHEMES[strategy][dynamic]
    _require_all(part, "weights", weights, _WEIGHTS | of_weights)
    _require_all(part, "input_activations", activations, _FLOAT8 | of_activations)
    ignore = part.names("ignore")
    for pattern in ignore:
        if pattern.startswith("re:"):
            _check_pattern("ignore", pattern, pattern.removeprefix("re:"), part.config)
    return Quantization(weight_format, tuple(ignore), kv_cache=kv_cache)


def _arguments(part: QuantizationFields, group: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(arguments := group.get(name), dict):
        raise part.config.refuse(f"quantization_config: {name} is missing; {SERVED}")
    return arguments


def _require_all(part: QuantizationFields, name: str, stated: dict[str, Any], served: dict[str, Any]) -> None:
    for field, value in served.items():
        part.require(f"{name}.{field}", stated.get(field, _DEFAULTS.get(field)), (value,))


def read_fp8(part: QuantizationFields) -> Quantization:
    """The block format of Qwen's and DeepSeek's own FP8 checkpoints; without blocks, a scale for each matrix, as AutoFP8 writes.

    Field names: `FineGrainedFP8Config` of transformers and `Fp8Config` of vLLM. Heads and routers are never in FP8 there,
    whether they are listed in `modules_to_not_convert` or not. What `activation_scheme` dynamic is without blocks, no field
    says: per token, as in vLLM's dense products on the same devices.
    """
    stated = part.raw
    sizes, scheme = stated.get("weight_block_size"), stated.get("activation_scheme", "dynamic")
    part.require("weight_block_size", sizes, (None, [128, 128]))
    part.require("activation_scheme", scheme, ("dynamic", "static") if sizes is None else ("dynamic",))
    part.require("fmt", stated.get("fmt", "e4m3"), ("e4m3", "float8_e4m3fn"))
    part.require("scale_fmt", stated.get("scale_fmt"), (None, "float"))
    skipped = tuple(dict.fromkeys([*part.names("modules_to_not_convert"), *part.names("ignored_layers")]))
    for key in skipped:
        if not PLAIN.fullmatch(key):
            _check_pattern("modules_to_not_convert", key, _up_to_a_dot(key), part.config)
    if sizes is not None:
        return Quantization(WeightFormat.FP8_BLOCK, (HEADS_AND_ROUTERS,), "weight_scale_inv", skipped)
    weight_format = WeightFormat.FP8_STATIC if scheme == "static" else WeightFormat.FP8_TENSOR
    return Quantization(weight_format, (HEADS_AND_ROUTERS,), skipped=skipped)


def read_modelopt(part: QuantizationFields) -> Quantization:
    """ModelOpt's FP8: one scale for each matrix and a static one for its inputs.

    Field names: `hf_quant_config.json`, whose `quantization` may stand in config.json as it is; newer writers spread it there
    in compressed-tensors' words.
    """
    nested = part.raw.get("quantization")
    if nested is not None:
        if not isinstance(nested, dict):
            raise part.config.refuse(f"quantization_config: quantization must be an object, is {nested!r}")
        part = dataclasses.replace(part, raw=nested)
    stated = part.raw
    part.require("modelopt's quant_algo", stated.get("quant_algo"), ("FP8",))
    groups = stated.get("config_groups") or {}
    for group in groups.values() if isinstance(groups, dict) else (None,):
        if not isinstance(group, dict):
            raise part.config.refuse(f"quantization_config: config_groups must hold objects, is {groups!r}")
        for name in ("weights", "input_activations"):
            _require_all(part, name, _arguments(part, group, name), _KV_CACHE)
    algo, scheme = stated.get("kv_cache_quant_algo"), stated.get("kv_cache_scheme")
    part.require("kv_cache_quant_algo", algo, (None, "FP8"))
    if scheme is not None:
        if not isinstance(scheme, dict):
            raise part.config.refuse(f"quantization_config: kv_cache_scheme must be an object, is {scheme!r}")
        _require_all(part, "kv_cache_scheme", scheme, _KV_CACHE)
    excluded = tuple(dict.fromkeys([*part.names("exclude_modules"), *part.names("ignore")]))
    kv_cache = KvFormat.FP8 if algo or scheme else KvFormat.BF16
    return Quantization(WeightFormat.FP8_STATIC, excluded=excluded, kv_cache=kv_cache)


READERS: dict[Any, Callable[[QuantizationFields], Quantization]] = {
    "compressed-tensors": read_compressed_tensors,
    "fp8": read_fp8,
    "modelopt": read_modelopt,
}
"""quant_method -> what reads the rest."""


def _changes_nothing(name: str, part: Any) -> bool:
    """Whether a part of a quantization_config leaves weights as they are: empty, or a sparsity that leaves nothing out."""
    return not part or (name == "sparsity_config" and isinstance(part, dict) and part.get("format") == "dense")


def _check_pattern(field: str, stated: str, pattern: str, fields: JsonFields) -> None:
    try:
        compile_pattern(pattern)
    except ValueError as exc:
        raise fields.refuse(f"quantization_config: {field} holds the bad pattern {stated[:200]!r}: {exc}") from exc

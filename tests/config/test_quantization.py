"""Which modules a checkpoint leaves unquantized, by the rules of those who write them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest
from transformers.quantizers.quantizers_utils import should_convert_module

from models.toy import FP8_BLOCK, FP8_DYNAMIC, raw_config
from octavo.config.patterns import compile_pattern
from octavo.config.quantization import Quantization, WeightFormat
from octavo.errors import CheckpointError
from octavo.models.registry import read_config

MODULES = [
    f"model.layers.{layer}.{name}"
    for layer in (0, 1, 2, 11, 20)
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.shared_expert_gate", "mlp.experts")
]
KEYS = [
    "model.layers.2",
    "model.layers.1",
    "layers.1",
    "model",
    "o_proj",
    "proj",
    "gate",
    "mlp.experts",
    "mlp.shared_expert_gate",
    "model.layers.2.self_attn.o_proj",
    r"model\.layers\.(1|2)",
    "model.layers.*.mlp.gate",
    ".*mlp.gate",
    ".*q_proj$",
    "model.layers.1[0-9]",
    "self_attn.*",
    "[",
    "",
]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_skips_what_it_skips_in_transformers(key: str) -> None:
    """Of all modules that transformers knows; what names a part of a word there does so here."""
    if key == "[":
        with pytest.raises(CheckpointError, match="modules_to_not_convert"):
            read_config(raw_config(quantization_config=FP8_BLOCK | {"modules_to_not_convert": [key]}))
        return
    quantization = read_config(
        raw_config(quantization_config=FP8_BLOCK | {"modules_to_not_convert": [key]})
    ).quantization
    for module in MODULES:
        # each expert is a module of its own here and in a checkpoint
        asked = f"{module}.3.up_proj" if module.endswith(".experts") else module
        expected = should_convert_module(module, [key]) and should_convert_module(asked, [key])
        assert quantization.covers(asked) is expected, (key, module)


def test_heads_and_routers_are_never_quantized() -> None:
    covers = Quantization(WeightFormat.FP8_BLOCK, ("lm_head",)).covers
    assert covers("model.layers.0.mlp.gate")
    for keys in (None, [], ["model.layers.7"]):
        covers = read_config(
            raw_config(quantization_config=FP8_BLOCK | {"modules_to_not_convert": keys})
        ).quantization.covers
        assert not covers("lm_head")
        assert not covers("model.layers.0.mlp.gate")
        assert not covers("model.layers.0.block_sparse_moe.gate")
        assert covers("model.layers.0.mlp.shared_expert_gate")


def test_as_many_names_as_a_model_has() -> None:
    """Each module by its name: 20,000 keys and as many questions."""
    keys = [f"model.layers.{layer}.mlp.experts.{expert}.up_proj" for layer in range(100) for expert in range(200)]
    covers = Quantization(WeightFormat.FP8_BLOCK, (), skipped=tuple(keys)).covers
    assert not any(covers(key) for key in keys)
    assert all(covers(key.replace("up_proj", "down_proj")) for key in keys)


class Key(str):
    """A key that counts how often its hash is asked for."""

    asked = 0

    def __hash__(self) -> int:
        Key.asked += 1
        return super().__hash__()


def test_no_question_goes_through_all_names() -> None:
    keys = [Key(f"model.layers.{layer}.mlp.experts.3.up_proj") for layer in range(500)]
    covers = Quantization(WeightFormat.FP8_BLOCK, (), skipped=tuple(keys)).covers
    assert not any(covers(str(key)) for key in keys)
    assert Key.asked < 4 * len(keys)


TAKEN = [
    r".*mlp.gate$",
    r".*\.layers\.(0|1|2|45|46)\..*",
    r"model\.layers\.[0-9]+\.mlp\.(gate|shared_expert_gate)$",
    r"^(?!.*experts).*",
    r".*self_attn\.(q|k|v|o)_proj$",
    r"(?:model\.)?visual\..*",
    r"model\.layers\.(?:[0-9]|1[0-9])\.linear_attn\..*?_proj",
]
ENDLESS = ["(a+)+$", "(a|aa)+$", "(a?){30}a{30}", "(.*a){12}", "a?" * 30 + "a" * 30, "(?=(a+)+$)b", "(?:(a|b)*c?)*$"]


@pytest.mark.parametrize("pattern", TAKEN)
def test_patterns_of_public_checkpoints_are_taken(pattern: str) -> None:
    compiled = compile_pattern(pattern)
    for module in MODULES:
        assert bool(compiled.match(module)) is bool(re.match(pattern, module))


@pytest.mark.parametrize("pattern", ENDLESS)
def test_a_pattern_that_may_take_without_end_is_refused(pattern: str) -> None:
    with pytest.raises(CheckpointError, match="ignore"):
        read_config(raw_config(quantization_config=FP8_DYNAMIC | {"ignore": [f"re:{pattern}"]}))
    with pytest.raises(CheckpointError, match="modules_to_not_convert"):
        read_config(raw_config(quantization_config=FP8_BLOCK | {"modules_to_not_convert": [pattern]}))


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$"])
def test_such_a_pattern_does_take_without_end(pattern: str) -> None:
    """The twin: `re` alone is still at it when two seconds of its processor time are over."""
    code = (
        f"import re, resource; resource.setrlimit(resource.RLIMIT_CPU, (2, 2)); re.match({pattern!r}, 'a' * 60 + 'b')"
    )
    ended = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False)
    assert ended.returncode in (-signal.SIGXCPU, -signal.SIGKILL)


def test_codes_that_lie_as_they_are_have_two_names() -> None:
    """compressed-tensors' `naive-quantized` of 8-bit floats is its `float-quantized`; other formats are refused, alone and in a group."""
    expected = read_config(raw_config(quantization_config=FP8_DYNAMIC))
    assert read_config(raw_config(quantization_config=FP8_DYNAMIC | {"format": "naive-quantized"})) == expected
    group = FP8_DYNAMIC["config_groups"]["group_0"]
    for named in ("int-quantized", "pack-quantized", "nvfp4-pack-quantized"):
        for raw in ({"format": named}, {"config_groups": {"group_0": group | {"format": named}}}):
            with pytest.raises(CheckpointError, match=named):
                read_config(raw_config(quantization_config=FP8_DYNAMIC | raw))

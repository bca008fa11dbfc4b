"""config.json: what is read, and what is refused by name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from models.toy import (
    FP8_BLOCK,
    FP8_DYNAMIC,
    RAW,
    raw_config,
    raw_glm4_moe,
    raw_minimax_m2,
    raw_mixtral,
    raw_olmoe,
    raw_qwen2_moe,
    raw_qwen3,
    raw_qwen3_5_moe,
    raw_qwen3_next,
)
from octavo.config import WeightFormat
from octavo.config.facts import PagedKv
from octavo.config.json_fields import LARGEST, MOST
from octavo.errors import CheckpointError
from octavo.models.mixtral.config import MixtralConfig
from octavo.models.placing import fresh_memory
from octavo.models.qwen3_moe.config import Qwen3MoeConfig
from octavo.models.registry import decode_config, encode_config, read_config, read_folder
from octavo.worker.shared_weights.weights import block_bytes


def test_both_spellings_of_rope() -> None:
    old = read_config(raw_config(rope_theta=5e5, rope_scaling=None))
    new = read_config(raw_config(rope_theta=None, rope_parameters={"rope_theta": 5e5, "rope_type": "default"}))
    assert old == new
    assert old.rope.theta == 5e5


def test_a_base_within_rope_scaling() -> None:
    """As transformers reads it."""
    raw = raw_config(rope_theta=None, rope_scaling={"rope_type": "default", "rope_theta": 77.0})
    assert read_config(raw).facts.identity["rope"]["theta"] == 77.0


def test_a_config_nested_too_deep_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(CheckpointError, match="nested"):
        read_config(raw_config(extra=deep))


def test_sparse_layers() -> None:
    config = Qwen3MoeConfig.from_json(raw_config(num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=[3]))
    assert [config.is_sparse(layer) for layer in range(6)] == [False, True, False, False, False, True]


def test_defaults() -> None:
    config = read_config(raw_config(head_dim=None, quantization_config=None, torch_dtype=None, dtype="bfloat16"))
    assert config.head_dim == 16
    assert config.quantization.format is WeightFormat.BF16


def test_eos_ids_of_both_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(raw_config(eos_token_id=[4, 2])))
    assert read_folder(tmp_path).eos_token_ids == (4, 2)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 9]}))
    assert read_folder(tmp_path).eos_token_ids == (4, 2, 9)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 97}))
    with pytest.raises(CheckpointError, match=r"generation_config.json: eos_token_id .* 97"):
        read_folder(tmp_path)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": (
        {"architectures": ["LlamaForCausalLM"]},
        "LlamaForCausalLM.* is not served; .*Qwen3MoeForCausalLM",
    ),
    "model-type": ({"model_type": "llama"}, "llama"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act .*silu"),
    "sliding-window": ({"use_sliding_window": True}, "use_sliding_window"),
    "dtype": ({"torch_dtype": "int8"}, "torch_dtype 'int8' is not served"),
    "dynamic-rope": ({"rope_scaling": {"type": "dynamic", "factor": 4}}, "'dynamic' is not served.*cached"),
    "rope-factor": ({"rope_scaling": {"type": "yarn", "factor": 0.5}}, "factor"),
    "rope-no-factor": ({"rope_scaling": {"type": "linear"}}, "factor"),
    "rope-betas": ({"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 2}}, "beta_fast"),
    "rope-unknown": ({"rope_scaling": {"type": "yarn", "factor": 2, "finetuned": True}}, "finetuned"),
    "rope-without-end": ({"rope_scaling": {"type": "linear", "factor": 1e12}}, "positions"),
    "rope-no-object": ({"rope_scaling": ["yarn"]}, "rope_scaling must be an object"),
    "yarn-of-one": ({"rope_theta": 1, "rope_scaling": {"type": "yarn", "factor": 2}}, "rope_theta"),
    "new-rope-scaling": ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope scaling 'llama3'"),
    "partial-rope": ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    "theta": ({"rope_theta": -1}, "rope_theta must be a positive number, is -1"),
    "missing": ({"hidden_size": None}, "hidden_size must be an integer of at least 1, is None"),
    "string": ({"num_hidden_layers": "4"}, "num_hidden_layers must be an integer of at least 1, is '4'"),
    "bool": ({"vocab_size": True}, "vocab_size must be an integer of at least 1, is True"),
    "flag": ({"norm_topk_prob": 1}, "norm_topk_prob must be true or false, is 1"),
    "eps": ({"rms_norm_eps": 0}, "rms_norm_eps must be a positive number, is 0"),
    "layers-list": ({"mlp_only_layers": ["1"]}, "mlp_only_layers must be a list of integers"),
    "eos": ({"eos_token_id": -1}, "eos_token_id must hold token ids below vocab_size 97, holds -1"),
    "heads": ({"num_key_value_heads": 3}, "num_attention_heads 4 must be a multiple of num_key_value_heads 3"),
    "odd-head": ({"head_dim": 15}, "head_dim must be even for rotary embeddings, is 15"),
    "top-k": ({"num_experts_per_tok": 9}, "num_experts_per_tok 9 must not exceed num_experts 8"),
    "theta-elsewhere": ({"rope_theta": None, "rope_scaling": {"rope_type": "default", "factor": 4.0}}, "factor"),
    "rope-by-kind": ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "full_attention"),
    "partial-at-the-top": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "400-digits": ({"rope_theta": 10**400}, "rope_theta"),
    "layers-without-end": ({"num_hidden_layers": 10**30}, "num_hidden_layers"),
    "no-family": ({"architectures": None, "model_type": None}, "architecture None"),
    "two-families": ({"model_type": "mixtral"}, "Qwen3MoeForCausalLM.*mixtral"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as info:
        read_config(raw_config(**changes), file="folder/config.json")
    assert info.value.file == "folder/config.json"


FAMILIES = (
    raw_config,
    raw_glm4_moe,
    raw_minimax_m2,
    raw_mixtral,
    raw_olmoe,
    raw_qwen2_moe,
    raw_qwen3,
    raw_qwen3_5_moe,
    raw_qwen3_next,
)
NO_SIZE = ("decoder_sparse_step", "full_attention_interval", "first_k_dense_replace", "bos_token_id", "eos_token_id")
SIZES = [
    pytest.param(raw, name, id=f"{raw.__name__}-{name}")
    for raw in FAMILIES
    for name, value in raw().items()
    if type(value) is int and not name.endswith("token_id") and name not in NO_SIZE
]


@pytest.mark.parametrize(("raw", "name"), SIZES)
@pytest.mark.parametrize("size", [10**9, 2**31 - 1])
def test_a_size_beyond_all_models_is_refused_by_name(raw: Callable[..., dict[str, Any]], name: str, size: int) -> None:
    """Before anything is made of it: a layer for each of a billion would take hours, and all memory."""
    with pytest.raises(CheckpointError, match=rf"\b{name}\b.* {size}\b"):
        read_config(raw(**{name: size}))


@pytest.mark.parametrize("raw", FAMILIES)
def test_more_positions_than_a_table_is_made_of_at_once_are_refused_by_name(raw: Callable[..., dict[str, Any]]) -> None:
    """Sines and cosines of 2^24 positions held up the start for more than 40 s."""
    assert read_config(raw(max_position_embeddings=2**20)).max_position_embeddings == 2**20
    for positions in (2**20 + 1, 2**24):
        with pytest.raises(CheckpointError, match=rf"\bmax_position_embeddings\b.* {positions}\b"):
            read_config(raw(max_position_embeddings=positions))


def test_more_experts_in_all_than_can_be_laid_out_at_once_are_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match="num_hidden_layers 1000 of 66 experts"):
        read_config(raw_config(num_hidden_layers=1000, num_experts=66))
    assert len(read_config(raw_config(num_hidden_layers=1000, num_experts=65)).cache) == 1000


def test_a_sequence_longer_than_all_is_refused_by_what_makes_it_so() -> None:
    scaled = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2**18}
    assert read_config(raw_config(rope_scaling=scaled)).max_position_embeddings == 2**20
    for longer in ({"factor": 4.1}, {"original_max_position_embeddings": 2**18 + 1}):
        with pytest.raises(CheckpointError, match=f"factor {longer.get('factor', 4.0)}"):
            read_config(raw_config(rope_scaling=scaled | longer))


def test_the_bytes_of_the_largest_model_are_counted() -> None:
    largest = {"hidden_size": MOST, "intermediate_size": MOST, "moe_intermediate_size": MOST, "num_experts": 64}
    names = ("vocab_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    config = read_config(raw_config(**largest, **{name: LARGEST[name] for name in names}))
    assert 2**50 < block_bytes(config) < 2**62


REFUSED_MIXTRAL: dict[str, tuple[dict[str, Any], str]] = {
    "window": ({"sliding_window": 511}, "sliding_window 511"),
    "window-type": ({"sliding_window": "all"}, "sliding_window"),
    "top-k": ({"num_experts_per_tok": 9}, "num_experts_per_tok 9"),
    "experts": ({"num_local_experts": 0}, "num_local_experts"),
    "rope": ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e6}}, "longrope"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED_MIXTRAL.values(), ids=REFUSED_MIXTRAL)
def test_mixtral_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_config(raw_mixtral(**changes))


REFUSED_OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "olmoe-clip": (raw_olmoe(clip_qkv=8.0), "clip_qkv 8.0"),
    "qwen2-window": (raw_qwen2_moe(use_sliding_window=True), "use_sliding_window"),
    "qwen2-layers": (raw_qwen2_moe(layer_types=["full_attention", "sliding_attention"]), "layer_types"),
    "qwen3-layers": (raw_qwen3(layer_types="full_attention"), "layer_types"),
    "hybrid-kinds": (raw_qwen3_next(layer_types=["sliding_attention"] * 3), "layer_types"),
    "hybrid-layers": (raw_qwen3_next(layer_types=["linear_attention", "full_attention"]), "layer_types names 2 layers"),
    "hybrid-no-attention": (raw_qwen3_next(full_attention_interval=4), "no layer has attention"),
    "hybrid-heads": (raw_qwen3_next(linear_num_value_heads=3), "linear_num_value_heads 3"),
    "hybrid-taps": (raw_qwen3_next(linear_conv_kernel_dim=9), "linear_conv_kernel_dim 9"),
    "hybrid-one-tap": (raw_qwen3_next(linear_conv_kernel_dim=1), "linear_conv_kernel_dim"),
    "hybrid-key": (raw_qwen3_next(linear_key_head_dim=257), "linear_key_head_dim 257"),
    "hybrid-gate": (raw_qwen3_5_moe(attn_output_gate=False), "attn_output_gate"),
    "hybrid-state": (raw_qwen3_5_moe(mamba_ssm_dtype="bfloat16"), "mamba_ssm_dtype"),
    "hybrid-text": ({"architectures": ["Qwen3_5MoeForConditionalGeneration"]}, "text_config"),
    "hybrid-interval": (raw_qwen3_next(full_attention_interval=0), "full_attention_interval"),
    "glm-groups": (raw_glm4_moe(n_group=3), "n_group 3"),
    "glm-kept": (raw_glm4_moe(n_group=2, topk_group=3), "topk_group 3"),
    "glm-few": (raw_glm4_moe(n_group=4, num_experts_per_tok=3), "num_experts_per_tok 3"),
    "glm-alone": (raw_glm4_moe(n_group=8), "n_group 8"),
    "glm-scores": (raw_glm4_moe(scoring_func="softmax"), "scoring_func"),
    "glm-share": (raw_glm4_moe(partial_rotary_factor=0.3, head_dim=10), "partial_rotary_factor"),
    "glm-whole": (raw_glm4_moe(partial_rotary_factor=1.5), "partial_rotary_factor"),
    "minimax-lightning": (raw_minimax_m2(attn_type_list=[1, 0, 1]), "attn_type_list"),
    "minimax-no-bias": (raw_minimax_m2(use_routing_bias=False), "use_routing_bias"),
    "minimax-norms": (raw_minimax_m2(qk_norm_type="per_head"), "qk_norm_type"),
    "minimax-shared": (raw_minimax_m2(shared_intermediate_size=64), "shared_intermediate_size"),
    "minimax-turned": (raw_minimax_m2(rotary_dim=32), "partial_rotary_factor"),
    "qwen3-window": (raw_qwen3(use_sliding_window=True), "use_sliding_window"),
}


@pytest.mark.parametrize(("raw", "message"), REFUSED_OTHERS.values(), ids=REFUSED_OTHERS)
def test_other_families_refuse_by_name(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_config(raw)


GLM_DEFAULTS = ["n_routed_experts", "num_experts_per_tok", "n_group", "topk_group", "routed_scaling_factor"]
GLM_DEFAULTS += ["linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim"]
GLM_DEFAULTS += ["linear_conv_kernel_dim", "shared_expert_intermediate_size"]
GLM_DEFAULTS += ["norm_topk_prob", "n_shared_experts", "first_k_dense_replace", "use_qk_norm", "attention_bias"]
HYBRID_DEFAULTS = dict.fromkeys([*GLM_DEFAULTS, "num_experts", "rope_theta", "head_dim", "partial_rotary_factor"])
SERVED_DEFAULTS = [
    (
        raw_qwen3(head_dim=None, num_key_value_heads=None, rope_theta=None, rms_norm_eps=None),
        transformers.Qwen3Config(),
    ),
    (raw_qwen2_moe(num_experts=None, num_experts_per_tok=None, rope_theta=None), transformers.Qwen2MoeConfig()),
    (raw_olmoe(num_experts=None, num_experts_per_tok=None, rope_theta=None), transformers.OlmoeConfig()),
    (
        raw_glm4_moe(**dict.fromkeys([*GLM_DEFAULTS, "rope_theta", "rms_norm_eps", "partial_rotary_factor"])),
        transformers.Glm4MoeConfig(),
    ),
    (
        raw_minimax_m2(
            **dict.fromkeys(["num_local_experts", "num_experts_per_tok", "rope_theta", "head_dim", "rotary_dim"])
        ),
        transformers.MiniMaxM2Config(),
    ),
    (raw_qwen3_next(**HYBRID_DEFAULTS), transformers.Qwen3NextConfig()),
    (raw_qwen3_5_moe(**HYBRID_DEFAULTS), transformers.Qwen3_5MoeTextConfig()),
]


@pytest.mark.parametrize(
    ("raw", "theirs"),
    SERVED_DEFAULTS,
    ids=["qwen3", "qwen2_moe", "olmoe", "glm4_moe", "minimax_m2", "qwen3_next", "qwen3_5_moe"],
)
def test_defaults_of_other_families(raw: dict[str, Any], theirs: Any) -> None:
    ours = read_config(raw).facts.identity
    assert ours["rope"]["theta"] == theirs.rope_parameters["rope_theta"]
    assert ours["rms_norm_eps"] == theirs.rms_norm_eps
    share = theirs.rope_parameters.get("partial_rotary_factor", 1.0)
    assert ours["rope"]["width"] == int(ours["head_dim"] * share)
    for name in (*GLM_DEFAULTS, "head_dim", "num_experts", "qkv_bias", "num_local_experts"):
        if name not in raw and name in ours and hasattr(theirs, name):
            assert ours[name] == getattr(theirs, name), name


def test_mixtral_defaults_are_those_of_transformers() -> None:
    left_out = ("rope_theta", "rms_norm_eps", "num_local_experts", "num_experts_per_tok", "num_key_value_heads")
    raw = {name: value for name, value in raw_mixtral().items() if name not in left_out}
    config, theirs = read_config(raw), transformers.MixtralConfig()
    assert isinstance(config, MixtralConfig)
    assert config.rms_norm_eps == theirs.rms_norm_eps
    assert config.num_local_experts == theirs.num_local_experts
    assert config.num_experts_per_tok == theirs.num_experts_per_tok
    assert config.rope.theta == theirs.rope_parameters["rope_theta"]


@pytest.mark.parametrize("raw", [make() for make in RAW.values()], ids=RAW)
def test_a_config_travels_between_processes(raw: dict[str, Any]) -> None:
    config = read_config(raw)
    assert decode_config(encode_config(config)) == config
    paged = sum(isinstance(layer, PagedKv) for layer in config.cache)
    assert paged == (1 if config.model_type in ("qwen3_next", "qwen3_5_moe_text") else 3)
    assert config.facts.kv_bytes_per_token == 2 * 2 * paged * 2 * config.head_dim


def quantization(**changes: Any) -> dict[str, Any]:
    """FP8-dynamic with `weights__strategy="block"` and the like put in."""
    value = copy.deepcopy(FP8_DYNAMIC)
    group = value["config_groups"]["group_0"]
    for name, change in changes.items():
        part, _, field = name.partition("__")
        if part in ("weights", "input_activations") and field:
            group[part][field] = change
        elif part in group:
            group[part] = change
        else:
            value[part] = change
    return value


UNSERVED: dict[str, tuple[dict[str, Any], str]] = {
    "list": ({"quant_method": ["fp8"]}, "quant_method"),
    "gptq": ({"quant_method": "gptq"}, "quant_method 'gptq'"),
    "packed": ({"format": "pack-quantized"}, "format 'pack-quantized'"),
    "uncalibrated": ({"quantization_status": "initialized"}, "quantization_status 'initialized'"),
    "fp8-kv": ({"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
    "sparse": ({"sparsity_config": {"format": "sparse-24"}}, "sparsity_config"),
    "no-groups": ({"config_groups": {}}, "config_groups must hold one group"),
    "targets": ({"targets": ["re:.*q_proj"]}, "targets"),
    "int8": ({"weights__type": "int"}, "weights.type 'int'"),
    "block-of-tokens": ({"weights__strategy": "block"}, "weights.block_structure None"),
    "token": ({"weights__strategy": "token"}, "weights.strategy 'token'"),
    "asymmetric": ({"weights__symmetric": False}, "weights.symmetric False"),
    "int4": ({"weights__num_bits": 4}, "weights.num_bits 4"),
    "static": ({"input_activations__dynamic": False}, "input_activations.dynamic False"),
    "per-tensor": ({"input_activations__strategy": "tensor"}, "input_activations.strategy 'tensor'"),
    "local": ({"input_activations__dynamic": "local"}, "input_activations.dynamic 'local'"),
    "odd-dynamic": ({"input_activations__dynamic": []}, "input_activations.dynamic"),
    "weights-only": ({"input_activations": None}, "input_activations is missing"),
}


@pytest.mark.parametrize(("changes", "message"), UNSERVED.values(), ids=UNSERVED)
def test_other_quantization_is_refused_with_what_is_served(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as info:
        read_config(raw_config(quantization_config=quantization(**changes)))
    assert "FP8-dynamic" in str(info.value)


UNSERVED_BLOCKS: dict[str, tuple[dict[str, Any], str]] = {
    "other-blocks": ({"weight_block_size": [64, 128]}, "weight_block_size"),
    "static": ({"activation_scheme": "static"}, "activation_scheme 'static'"),
    "e5m2": ({"fmt": "e5m2"}, "fmt 'e5m2'"),
    "ue8m0": ({"scale_fmt": "ue8m0"}, "scale_fmt 'ue8m0'"),
    "names": ({"modules_to_not_convert": "lm_head"}, "modules_to_not_convert must be a list"),
}


@pytest.mark.parametrize(("changes", "message"), UNSERVED_BLOCKS.values(), ids=UNSERVED_BLOCKS)
def test_other_fp8_is_refused_with_what_is_served(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_config(raw_config(quantization_config=FP8_BLOCK | changes))


@pytest.mark.parametrize(
    "names", [None, ["lm_head", "model.layers.0.mlp.gate"], ["model.layers.2"], ["o_proj"]], ids=str
)
def test_names_that_are_not_converted(names: list[str] | None) -> None:
    """Heads and routers never are; a name may be a module, what it is in, or its last part."""
    raw = raw_config(quantization_config=FP8_BLOCK | {"modules_to_not_convert": names})
    covers = read_config(raw).quantization.covers
    assert not covers("lm_head")
    assert not covers("model.layers.0.mlp.gate")
    assert covers("model.layers.0.mlp.experts.3.gate_proj")
    assert covers("model.layers.2.self_attn.o_proj") is (names not in (["model.layers.2"], ["o_proj"]))
    assert covers("model.layers.20.self_attn.q_proj")


def test_blocks_as_compressed_tensors_states_them() -> None:
    weights = {"weights__strategy": "block", "weights__block_structure": [128, 128]}
    inputs = {"input_activations__strategy": "group", "input_activations__group_size": 128}
    stated = read_config(raw_config(quantization_config=quantization(**weights, **inputs))).quantization
    assert stated.format is WeightFormat.FP8_BLOCK
    assert stated.scale_name == "weight_scale"


def test_layers_that_share_a_block_are_refused() -> None:
    """Queries of 4 heads of 16 end within a block, and keys begin there."""
    config = read_config(raw_config(quantization_config=FP8_BLOCK))
    with pytest.raises(CheckpointError, match=r"q_proj\.weight.*64 rows in blocks of 128"):
        config.place_parameters(fresh_memory(torch.device("meta")))


OPTIONAL = {
    "architectures",
    "model_type",
    "hidden_act",
    "attention_bias",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
    "norm_topk_prob",
    "decoder_sparse_step",
    "mlp_only_layers",
    "quantization_config",
}


@pytest.mark.parametrize("name", sorted(OPTIONAL))
def test_null_is_absent(name: str) -> None:
    raw = raw_config()
    raw.pop(name, None)
    assert read_config({**raw, name: None}) == read_config(raw)


LEFT_OVER: dict[str, dict[str, Any]] = {
    "dense": {
        "sparsity_config": {
            "format": "dense",
            "global_sparsity": 0.14,
            "ignore": ["lm_head"],
            "registry_requires_subclass": False,
            "sparsity_structure": "unstructured",
            "targets": [],
        }
    },
    "frozen": {"quantization_status": "frozen"},
    "no-status": {"quantization_status": None},
    "empty": {"sparsity_config": {}, "kv_cache_scheme": {}, "transform_config": {}},
    "nulls-within": {"weights__dynamic": None, "weights__symmetric": None, "sparsity_config": {"format": None}},
}


@pytest.mark.parametrize("changes", LEFT_OVER.values(), ids=LEFT_OVER)
def test_what_changes_no_weight_is_no_reason_to_refuse(changes: dict[str, Any]) -> None:
    plain = read_config(raw_config())
    assert read_config(raw_config(quantization_config=quantization(**changes))) == plain


def test_ignore_takes_names_and_patterns() -> None:
    ignore = ["lm_head", "re:.*mlp.gate$", "model.layers.0.self_attn.o_proj"]
    config = read_config(raw_config(quantization_config=quantization(ignore=ignore)))
    modules = ["lm_head", "model.layers.1.mlp.gate", "model.layers.0.self_attn.o_proj"]
    assert not any(config.quantization.covers(module) for module in modules)
    others = ["model.layers.1.mlp.gate_proj", "model.layers.1.self_attn.o_proj", "xlm_head"]
    assert all(config.quantization.covers(module) for module in others)
    for bad in ("re:*", "re:a{99999999999999999999}", "re:" + "(" * 5000 + ")" * 5000):
        with pytest.raises(CheckpointError, match="bad pattern"):
            read_config(raw_config(quantization_config=quantization(ignore=[bad])))


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"], ids=["empty", "cut", "list", "not-utf8"])
def test_files_that_are_no_json_object(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="JSON"):
        read_folder(tmp_path)
    with pytest.raises(CheckpointError, match="not found"):
        read_folder(tmp_path / "nowhere")


def test_how_angles_are_dealt_out_is_left_out_in_both_spellings() -> None:
    dealt = {"mrope_section": [11, 11, 10], "mrope_interleaved": True}
    for name in ("rope_parameters", "rope_scaling"):
        assert read_config(raw_qwen3_5_moe(**{name: {"rope_type": "default"} | dealt})).rope.factor == 1.0

"""Settings from the command line, YAML, environment and Python."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

from octavo.config.engine import EngineConfig
from octavo.config.settings import Settings
from octavo.config.vllm_flags import VLLM_FLAGS, Shape
from octavo.errors import ConfigError
from octavo.startup.configs import CPU_BLOCK_SIZE


def test_sources_win_in_order_command_line_yaml_environment_default(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text("port: 2\nmax-num-seqs: 2\n")
    environ = {"OCTAVO_PORT": "3", "OCTAVO_MAX_NUM_SEQS": "3", "OCTAVO_SEED": "3", "HOME": "/"}
    settings = Settings.from_sources({"port": "1"}, config=config, environ=environ)
    assert (settings.port, settings.max_num_seqs, settings.seed, settings.max_num_batched_tokens) == (1, 2, 3, 8192)


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("max_model_len", "32k", 32000),
        ("max_model_len", "32K", 32768),
        ("max_model_len", "25.6k", 25600),
        ("max_model_len", "1.1k", 1100),
        ("max_model_len", "auto", None),
        ("max_model_len", "-1", None),
        ("max_model_len", -1, None),
        ("kv_cache_memory_bytes", "1G", 2**30),
        ("kv_cache_memory_bytes", "1.5g", 1_500_000_000),
        ("enable_prefix_caching", "off", False),
        ("gpu_memory_utilization", "0.5", 0.5),
        ("served_model_name", ["a", "b"], ("a", "b")),
        ("served_model_name", "a,b", ("a", "b")),
        ("allowed_origins", '["http://x", "http://y"]', ("http://x", "http://y")),
        ("allowed_origins", ['["http://x"]'], ("http://x",)),
        ("default_chat_template_kwargs", '{"enable_thinking": false}', {"enable_thinking": False}),
        ("max_num_queued_reqs", None, None),
        ("model", "somewhere/model", "somewhere/model"),
        ("logging_level", "WARNING", "warning"),
        ("load_format", "safetensors", "safetensors"),
        ("max_logprobs", "-1", -1),
        ("api_key", '["a,b", "c"]', ("a,b", "c")),
    ],
    ids=repr,
)
def test_values_are_read(name: str, raw: object, value: object) -> None:
    assert getattr(Settings.from_values({name: raw}), name) == value


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("max_model_len", "long", "whole number"),
        ("max_model_len", "0", "at least 1"),
        ("max_model_len", 1.5, "whole number"),
        ("max_model_len", True, "whole number"),
        ("max_num_seqs", "1.5", "whole number"),
        ("max_num_seqs", -1, "at least 1"),
        ("enable_prefix_caching", "maybe", "true or false"),
        ("gpu_memory_utilization", "0", "(0, 1]"),
        ("gpu_memory_utilization", "nan", "(0, 1]"),
        ("shutdown_timeout", "nan", "at least 0"),
        ("device", "tpu", "auto, cpu, cuda"),
        ("port", "65536", "65535"),
        ("default_chat_template_kwargs", "[1]", "JSON object"),
        ("default_chat_template_kwargs", "{", "not JSON"),
        ("allowed_origins", {"a": 1}, "list"),
        ("seed", 2**63, "at most"),
        ("seed", "99999999999999999999999", "at most"),
        ("cpu_threads", 100_000, "at most 1024"),
        ("served_model_name", ["a", ""], "empty"),
        ("model", "", "empty"),
        ("uds", "", "empty"),
        ("response_role", "", "empty"),
    ],
    ids=repr,
)
def test_wrong_values_are_refused_by_name(name: str, raw: object, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        Settings.from_sources({name: raw})
    assert says in str(error.value)
    assert error.value.setting == "--" + name.replace("_", "-")


def test_an_error_names_the_source(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text("max-num-seqs: many\n")
    with pytest.raises(ConfigError, match=r"max-num-seqs in .*serve\.yaml"):
        Settings.from_sources({}, config=config)
    with pytest.raises(ConfigError, match="OCTAVO_MAX_NUM_SEQS"):
        Settings.from_sources({}, environ={"OCTAVO_MAX_NUM_SEQS": "0"})
    with pytest.raises(ConfigError, match=r"^max_num_seqs"):
        Settings.from_values({"max_num_seqs": 0})


def test_unknown_names_are_refused_with_the_nearest(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text("max-num-seq: 1\n")
    with pytest.raises(ConfigError, match="--max-num-seqs"):
        Settings.from_sources({"max_num_seq": "1"})
    with pytest.raises(ConfigError, match="mean max-num-seqs"):
        Settings.from_sources({}, config=config)
    with pytest.raises(ConfigError, match="OCTAVO_MAX_NUM_SEQS"):
        Settings.from_sources({}, environ={"OCTAVO_MAX_NUM_SEQ": "1"})
    for name in ("xyzzy", "modality", "parsing"):
        with pytest.raises(ConfigError, match=r"unknown setting$"):
            Settings.from_sources({name: 1})
    with pytest.raises(ConfigError, match="did you mean --nnodes"):
        Settings.from_sources({"nnode": 1})
    with pytest.raises(ConfigError, match=r"unknown setting$"):
        Settings.from_sources({}, environ={"OCTAVO_SECRET": "1"})


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", None], ids=["list", "broken", "missing"])
def test_a_config_file_that_is_none_is_refused(text: str | None, tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    if text is not None:
        config.write_text(text)
    with pytest.raises(ConfigError, match="--config"):
        Settings.from_sources({}, config=config)


def test_variables_of_a_kubernetes_service_named_octavo_are_passed_over() -> None:
    environ = {
        "OCTAVO_PORT": "tcp://10.0.0.1:8000",
        "OCTAVO_SERVICE_HOST": "10.0.0.1",
        "OCTAVO_SERVICE_PORT": "8000",
        "OCTAVO_SERVICE_PORT_HTTP": "8000",
        "OCTAVO_PORT_8000_TCP_ADDR": "10.0.0.1",
    }
    assert Settings.from_sources({}, environ=environ) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tensor_parallel_size", 2),
        ("tp", "2"),
        ("dtype", "float32"),
        ("quantization", "awq"),
        ("kv_cache_dtype", "fp8_e5m2"),
        ("kv_cache_dtype", "nvfp4"),
        ("enable_lora", True),
        ("lora_modules", ["a=b"]),
        ("speculative_config", '{"method": "ngram"}'),
        ("enable_expert_parallel", True),
        ("logprobs_mode", "processed_logprobs"),
        ("scheduling_policy", "luck"),
        ("load_format", "pt"),
        ("model_impl", "transformers"),
        ("convert", "embed"),
        ("nnodes", 2),
        ("node_rank", 1),
        ("tool_call_parser", "nobody's"),
        ("reasoning_parser", "nobody's"),
        ("tool_parser_plugin", "mine.py"),
        ("otlp_traces_endpoint", "http://x"),
        ("cpu_offload_gb", 4),
        ("tokenizer_mode", "slow"),
        ("max_logprobs", -2),
        ("api_key", [""]),
        ("enable_log_outputs", True),
        ("mamba_cache_dtype", "float16"),
        ("mamba_ssm_cache_dtype", "bfloat16"),
        ("calculate_kv_scales", True),
        ("enable_lora", "perhaps"),
    ],
    ids=repr,
)
def test_what_cannot_be_honoured_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError):
        Settings.from_values({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tp", "1"),
        ("quantization", None),
        ("enable_lora", False),
        ("task", "generate"),
        ("model_impl", "auto"),
        ("convert", "none"),
        ("nnodes", "1"),
        ("disable_cascade_attn", True),
        ("enable_chunked_prefill", True),
        ("async_scheduling", "yes"),
        ("reasoning_parser", ""),
        ("tool_call_parser", None),
        ("trust_remote_code", False),
        ("cpu_offload_gb", 0),
        ("mamba_ssm_cache_dtype", "float32"),
        ("calculate_kv_scales", False),
    ],
    ids=repr,
)
def test_what_is_so_anyway_is_accepted_silently(name: str, value: object, caplog: pytest.LogCaptureFixture) -> None:
    assert Settings.from_values({name: value}) == Settings()
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("trust_remote_code", True, "--trust-remote-code has no effect: code from a model folder is never run"),
        ("enable_chunked_prefill", False, "--no-enable-chunked-prefill has no effect: prompts longer"),
        ("async_scheduling", False, "--no-async-scheduling has no effect: the next step is always planned"),
        ("disable_cascade_attn", False, "--no-disable-cascade-attn has no effect"),
        (
            "prefix_caching_hash_algo",
            "sha256",
            "--prefix-caching-hash-algo sha256 has no effect: prefixes are found by",
        ),
        ("structured_outputs_config", '{"backend": "xgrammar"}', "structured outputs are always served"),
        ("mamba_cache_mode", "align", "states of recurrent layers are kept behind whole blocks"),
    ],
    ids=repr,
)
def test_what_costs_the_user_nothing_is_accepted_with_one_line(
    name: str, value: object, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert Settings.from_values({name: value}) == Settings()
    (line,) = [record.getMessage() for record in caplog.records]
    assert says in line


def test_a_refused_switch_that_is_turned_off_asks_for_nothing(caplog: pytest.LogCaptureFixture) -> None:
    switches = [name for name, flag in VLLM_FLAGS.items() if flag.shape is Shape.SWITCH]
    for name in switches:
        Settings.from_values({name: None})
    assert not caplog.records


def test_no_flag_is_both_a_setting_and_vllms() -> None:
    names = {field.name.replace("_", "-") for field in dataclasses.fields(Settings)}
    assert not names & set(VLLM_FLAGS)


def test_secrets_are_hidden() -> None:
    settings = Settings.from_values({"api_key": ["sesame"], "hf_token": "hf_sesame"})
    assert settings.public()["api_key"] == settings.public()["hf_token"] == "***"
    assert "sesame" not in repr(settings)


def test_defaults_that_stand_twice_are_equal() -> None:
    """Limits that the engine's config shares with the settings have the same default there, where they have one."""
    shared = {field.name: field for field in dataclasses.fields(EngineConfig)}.keys() & vars(Settings())
    own = {field.name: field.default for field in dataclasses.fields(EngineConfig) if field.name in shared}
    assert own.pop("block_size") == CPU_BLOCK_SIZE, "the settings leave it to the device"
    assert {"max_num_seqs", "max_num_batched_tokens", "max_logprobs"} <= own.keys()
    for name, default in own.items():
        assert default in (dataclasses.MISSING, getattr(Settings(), name)), name

"""The command line: what it takes, what it refuses, and that asking for help is cheap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from octavo.cli.flags import normalized, settings_from
from octavo.cli.main import build_parser, main
from octavo.config import Settings
from octavo.errors import ConfigError, WorkerDiedError


def parsed(*words: str) -> Settings:
    return settings_from(build_parser().parse_args(["serve", *normalized(words)]))


def test_serve_without_flags_is_the_default() -> None:
    assert parsed() == Settings()


def test_flags_become_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text("block-size: 32\nport: 1\n")
    monkeypatch.setenv("OCTAVO_SEED", "7")
    settings = parsed(
        "some/model",
        "--config",
        str(config),
        "--port=2",
        "--max_num_seqs",
        "3",
        "--no-enable-prefix-caching",
        "--served-model-name",
        "a",
        "b",
        "--max-model-len",
        "32k",
    )
    assert settings == Settings(
        model="some/model",
        block_size=32,
        port=2,
        seed=7,
        max_num_seqs=3,
        enable_prefix_caching=False,
        served_model_name=("a", "b"),
        max_model_len=32000,
    )


def test_a_list_given_in_parts_is_whole() -> None:
    words = "--inject-fault kill@step:20 --inject-fault hang@step:40 nan@step:60 --inject-fault=exit@step:80"
    assert parsed(*words.split()).inject_fault == ("kill@step:20", "hang@step:40", "nan@step:60", "exit@step:80")


def test_the_key_of_vllms_variable_guards_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "x")
    assert parsed().api_key == ("x",)


def test_copied_vllm_command_starts() -> None:
    words = (
        "Qwen/Qwen3-30B-A3B --trust-remote-code -tp 1 -O3 --dtype auto --quantization compressed-tensors --no-async-scheduling"
        " --compilation-config {} --disable-log-requests --cudagraph-capture-sizes 1 2 4 --enable-chunked-prefill"
    )
    assert parsed(*words.split()) == Settings(model="Qwen/Qwen3-30B-A3B", quantization="compressed-tensors")
    assert parsed(*words.replace("--quantization", "-q").split()).quantization == "compressed-tensors"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max-num-seq", "3"], "unknown flag; did you mean --max-num-seqs?"),
        (["--xyzzy"], "--xyzzy: unknown flag\n"),
        (["--modality"], "--modality: unknown flag\n"),
        (["--nodes", "1"], "did you mean --nnodes?"),
        (["--nnodes", "2"], "--nnodes 2: one GPU per server"),
        (["--default-chat-template-kwargs.x"], "needs a value"),
        (["--default-chat-template-kwargs", "{}", "--default-chat-template-kwargs.x=1"], "one way"),
        (["--default-chat-template-kwargs.x=1", "--default-chat-template-kwargs.x.y=1"], "value of its own"),
        (["--default-chat-template-kwargs.x=1", "--default-chat-template-kwargs.x=2"], "twice"),
        (["--port.x", "1"], "--port: must be a whole number"),
        (["-tp", "2"], "--tensor-parallel-size 2: one GPU per server"),
        (["--enable-lora"], "--enable-lora: LoRA adapters are not served"),
        (["--port", "x"], "--port: must be a whole number"),
        (["a", "--model", "b"], "--model: is 'b' but the first word says 'a'"),
        (["--config", "/nowhere.yaml"], "--config: cannot read /nowhere.yaml"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_words_are_refused(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *words]) == 2
    assert says in capsys.readouterr().err


def test_keys_of_json_objects_may_be_flags() -> None:
    settings = parsed(
        "--default-chat-template-kwargs.enable_thinking",
        "false",
        "--port",
        "1",
        "--default_chat_template_kwargs.a.b_c=x=y",
        "--default-chat-template-kwargs.a.d",
        "False",
        "--override-generation-config.temperature",
        "0.5",
        "-cc.mode",
        "3",
    )
    assert settings == Settings(
        port=1,
        default_chat_template_kwargs={"enable_thinking": False, "a": {"b_c": "x=y", "d": False}},
        override_generation_config={"temperature": 0.5},
    )


@pytest.mark.parametrize(
    "words",
    [
        "--load-format safetensors",
        "--max-logprobs -1",
        "--allowed-methods GET POST",
        '--allowed-headers ["X-A"]',
        "--allow-credentials",
        "--disable-fastapi-docs",
        "--response-role model",
        "--model-impl auto",
        "--convert none",
        "--nnodes 1",
        "--hf-token hf_x",
        "--hf-token",
        "--enable-log-requests --enable-log-outputs",
        "--prefix-caching-hash-algo sha256_cbor",
        "--disable-cascade-attn",
        "--dtype half",
        "--download-dir models",
        "--tokenizer-revision main",
        "--no-enable-chunked-prefill",
        "--no-disable-log-requests",
    ],
)
def test_flags_of_copied_commands_are_taken(words: str) -> None:
    parsed(*words.split())


def test_a_token_may_be_left_out() -> None:
    assert parsed("--hf-token").hf_token == "true"
    assert parsed("--hf-token", "x").hf_token == "x"
    assert parsed().hf_token is None


def test_model_twice_is_fine_if_equal() -> None:
    assert parsed("a", "--model", "a").model == "a"
    with pytest.raises(ConfigError):
        parsed("a", "--model", "b")


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    commands = [
        "serve",
        "verify",
        "collect-env",
        "bench",
        *(f"bench {k}" for k in ("burst", "serve", "throughput", "latency")),
    ]
    for command in ["", *commands]:
        with pytest.raises(SystemExit) as exit_:
            build_parser().parse_args([*command.split(), "--help"])
        assert exit_.value.code == 0
    assert "--max-num-batched-tokens" in capsys.readouterr().out


def test_help_and_import_load_no_torch_and_no_server() -> None:
    program = (
        "import sys, octavo, octavo.cli.main as m; m.build_parser().format_help();"
        "print([n for n in ('torch', 'fastapi', 'transformers', 'octavo.engine.engine') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_collect_env_tells_versions_and_no_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("OCTAVO_API_KEY", "VLLM_API_KEY", "OCTAVO_HF_TOKEN"):
        monkeypatch.setenv(name, "sesame")
    assert main(["collect-env"]) == 0
    printed = capsys.readouterr().out
    assert "torch" in printed
    assert "OCTAVO_API_KEY" in printed
    assert "sesame" not in printed
    assert main(["collect-env", "--json"]) == 0


def test_the_cause_is_the_last_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(args: object) -> int:
        raise WorkerDiedError("the worker met a fault: out of memory\nTraceback:\n  line 1")

    monkeypatch.setattr("octavo.cli.collect_env.run", fail)
    assert main(["collect-env"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["Traceback:", "  line 1", "octavo: error: the worker met a fault: out of memory"]

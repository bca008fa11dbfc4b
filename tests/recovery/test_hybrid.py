"""A model with recurrent layers in processes of its own: cached prefixes, deaths and replays, through all that a server starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import octavo
from engine.harness import Outcome, collect
from octavo.cli.main import main
from octavo.config import Settings
from octavo.engine import Request
from octavo.errors import ConfigError
from octavo.sampling import SamplingParams
from octavo.startup import in_processes, start

pytestmark = pytest.mark.usefixtures("warm")
TINY = Path(octavo.__file__).parent / "assets/octavo-tiny"
CONFIG = {
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "hidden_size": 32,
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_hidden_layers": 2,
    "full_attention_interval": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 8,
    "max_position_embeddings": 256,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """octavo-tiny's tokenizer, and a config of a hybrid with as many ids."""
    made = tmp_path_factory.mktemp("hybrid")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, made)
    sizes = json.loads((TINY / "config.json").read_text())
    ids = {name: sizes[name] for name in ("vocab_size", "eos_token_id")}
    (made / "config.json").write_text(json.dumps(CONFIG | ids))
    return made


def settings(folder: Path, **changes: Any) -> Settings:
    fields: dict[str, Any] = {
        "model": str(folder),
        "load_format": "dummy",
        "device": "cpu",
        "max_model_len": 128,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 48,
        "num_gpu_blocks_override": 64,
        "cpu_threads": 1,
    }
    return Settings(**fields | changes)


def answers(settings: Settings) -> dict[str, Outcome]:
    """Six requests, of which the last three begin as the first three, when those have ended."""
    runtime = start(settings, in_processes)
    outcomes: dict[str, Outcome] = {}
    try:
        engine = runtime.engine()
        for turn in range(2):
            for i in range(3):
                sampling = SamplingParams(temperature=1.0, seed=i, max_tokens=12, ignore_eos=True, logprobs=2)
                prompt = [*range(5, 55 + i), *range(turn * 9)]
                engine.add(Request(f"r{turn}{i}", prompt, sampling))
            while engine.has_work:
                collect(outcomes, engine.step())
    finally:
        runtime.close()
    return outcomes


def test_deaths_and_cached_prefixes_change_nothing(folder: Path, tmp_path: Path) -> None:
    plain = answers(settings(folder, enable_prefix_caching=False))
    assert all(outcome.num_cached_tokens == 0 for outcome in plain.values())
    faults = ("kill@step:3", "raise@step:9", "kill@step:22")
    disturbed = answers(settings(folder, inject_fault=faults, crash_dir=str(tmp_path)))
    assert disturbed == plain
    assert any(outcome.num_cached_tokens > 0 for name, outcome in disturbed.items() if name.startswith("r1"))


def test_a_crash_runs_again(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the states that its plans go on from; without its cause it does not."""
    answers(settings(folder, inject_fault=("raise@step:6",), crash_dir=str(tmp_path)))
    (crash,) = tmp_path.iterdir()
    assert main(["replay", str(crash), "--no-faults"]) == 0
    assert "survived" in capsys.readouterr().out
    assert main(["replay", str(crash)]) == 1
    assert "InjectedError" in capsys.readouterr().out


def test_states_that_cannot_fit_are_refused_before_anything_is_loaded(folder: Path) -> None:
    with pytest.raises(ConfigError, match="max_num_seqs") as error:
        start(settings(folder, max_num_seqs=2**31 - 1), in_processes)
    assert error.value.setting == "max_num_seqs"


def test_verify_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--load-format", "dummy", "--device", "cpu", "--quick", "--max-num-seqs", "4", "--max-model-len", "128"]
    assert main(["verify", "--model", str(folder), *flags, "--max-num-batched-tokens", "200"]) == 0
    assert "prefix from the cache" in capsys.readouterr().out

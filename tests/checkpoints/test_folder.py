"""From a model's name to its folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from octavo.checkpoints.folder import PATTERNS, TEXT_PATTERNS, Hub, resolve_folder
from octavo.config import WeightFormat
from octavo.errors import CheckpointError, ConfigError
from octavo.models.qwen3_moe.config import Qwen3MoeConfig
from octavo.models.registry import read_folder


@pytest.mark.parametrize("name", ["octavo-tiny", "qwen3-30b-a3b-fp8-dynamic"])
def test_embedded_configs_are_served(name: str) -> None:
    config = read_folder(resolve_folder(name, None))
    assert isinstance(config, Qwen3MoeConfig)
    assert config.quantization.format is WeightFormat.FP8_DYNAMIC
    assert (config.num_experts, config.num_experts_per_tok) == (128, 8)


def test_the_embedded_hybrid_is_served() -> None:
    config = read_folder(resolve_folder("octavo-tiny-hybrid", None))
    assert config.quantization.format is WeightFormat.FP8_BLOCK
    assert config.facts.state_bytes_per_request > 0


def test_the_full_shape() -> None:
    config = read_folder(resolve_folder("qwen3-30b-a3b-fp8-dynamic", None))
    assert isinstance(config, Qwen3MoeConfig)
    assert (config.hidden_size, config.num_hidden_layers, config.moe_intermediate_size) == (2048, 48, 768)
    assert config.facts.kv_bytes_per_token == 2 * 2 * 48 * 4 * 128
    assert not config.quantization.covers("lm_head")
    assert not config.quantization.covers("model.layers.3.mlp.gate")
    assert config.quantization.covers("model.layers.3.mlp.experts.7.gate_proj")


def test_local_folder(tmp_path: Path) -> None:
    assert resolve_folder(str(tmp_path), None) == tmp_path


def test_a_folder_that_this_user_may_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match="may not read"):
        resolve_folder(str(tmp_path), None)


def test_names_that_are_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="octavo-tiny"):
        resolve_folder("no-such-model", None)
    with pytest.raises(ConfigError, match="no folder"):
        resolve_folder("../no/such/folder", None)
    with pytest.raises(ConfigError, match=r"\(octavo-tiny, octavo-tiny-hybrid, qwen3-30b-a3b-fp8-dynamic\)"):
        resolve_folder("pages", None)
    with pytest.raises(ConfigError, match="is empty"):
        resolve_folder("", None)
    with pytest.raises(ConfigError, match="too long"):
        resolve_folder("x" * 300, None)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="a file"):
        resolve_folder(str(tmp_path / "file"), None)


def test_a_repo_is_downloaded_without_pickles_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def snapshot(repo: str, **arguments: Any) -> str:
        calls.append({"repo": repo, **arguments})
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert resolve_folder("some/model", "main") == tmp_path
    usual = {"repo": "some/model", "revision": "main", "allow_patterns": PATTERNS, "cache_dir": None, "token": None}
    assert calls.pop() == usual
    resolve_folder("some/model", "main", Hub("models", "hf_x"), patterns=TEXT_PATTERNS)
    own = {"allow_patterns": TEXT_PATTERNS, "cache_dir": Path("models"), "token": "hf_x"}
    assert calls.pop() == {**usual, **own}
    resolve_folder("some/model", "main", Hub(token="true"))
    assert calls.pop() == {**usual, "token": True}
    assert not any(pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in PATTERNS if pattern != "tokenizer*")


def test_a_revision_of_a_folder_on_this_machine_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in (str(tmp_path), "octavo-tiny"):
        resolve_folder(name, None)
        assert not caplog.records
        resolve_folder(name, "v2")
        assert "revision v2 has no effect" in caplog.text
        caplog.clear()


def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(repo: str, **_: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("cannot reach the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"some/model@v2 .*HF_TOKEN"):
        resolve_folder("some/model", "v2")

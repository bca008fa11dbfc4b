"""What the settings make of a model's small files, before any worker starts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from octavo.checkpoints.folder import ASSETS
from octavo.config import Settings, WeightFormat
from octavo.errors import ConfigError
from octavo.server.context import fingerprint
from octavo.startup import check_dtype, engine_config, in_this_process, load_model, server_context, start

TINY = ASSETS / "octavo-tiny"


def test_the_tokenizer_has_a_revision_and_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def snapshot(repo: str, **arguments: Any) -> str:
        calls.append({"repo": repo, **arguments})
        folder = tmp_path / f"{repo.replace('/', '-')}-{arguments['revision']}"
        shutil.copytree(TINY, folder, dirs_exist_ok=True)
        (folder / "chat_template.jinja").write_text(f"{folder.name} {{{{ messages[0].content }}}}")
        return str(folder)

    def downloads(**settings: Any) -> tuple[str, list[tuple[str, str | None]]]:
        calls.clear()
        model = load_model(Settings(model="some/model", **settings))
        assert model.chat_template is not None
        assert all("*.safetensors" not in call["allow_patterns"] for call in calls[1:])
        assert all((call["cache_dir"], call["token"]) == (Path("models"), "t") for call in calls)
        shown = model.chat_template.render([{"role": "user", "content": "x"}])
        return shown.split()[0], [(call["repo"], call["revision"]) for call in calls]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    own: dict[str, Any] = {"download_dir": "models", "hf_token": "t"}
    assert downloads(revision="a", **own) == ("some-model-a", [("some/model", "a")])
    assert downloads(revision="a", tokenizer_revision="b", **own) == (
        "some-model-b",
        [("some/model", "a"), ("some/model", "b")],
    )
    assert downloads(tokenizer="some/texts", tokenizer_revision="b", **own) == (
        "some-texts-b",
        [("some/model", None), ("some/texts", "b")],
    )


@pytest.mark.parametrize("dtype", ["float16", "half"])
def test_float16_is_not_for_bf16_models(dtype: str, caplog: pytest.LogCaptureFixture) -> None:
    check_dtype(dtype, WeightFormat.FP8_DYNAMIC)
    assert f"--dtype {dtype} has no effect" in caplog.text
    with pytest.raises(ConfigError, match="dtype"):
        check_dtype(dtype, WeightFormat.BF16)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_bfloat16_is_what_models_are_computed_in(dtype: str, caplog: pytest.LogCaptureFixture) -> None:
    for weights in WeightFormat:
        check_dtype(dtype, weights)
    assert not caplog.records


def test_logprobs_of_the_whole_vocabulary() -> None:
    model = load_model(Settings())
    assert engine_config(Settings(max_logprobs=-1), model, 8).max_logprobs == model.facts.vocab_size
    assert engine_config(Settings(max_logprobs=7), model, 8).max_logprobs == 7


def test_the_fingerprint_is_that_of_the_files_and_not_of_their_folder(tmp_path: Path) -> None:
    def told(folder: Path, **settings: Any) -> str:
        runtime = start(
            Settings(model=str(folder), cpu_threads=1, max_num_batched_tokens=64, **settings), in_this_process
        )
        try:
            return fingerprint(server_context(runtime))
        finally:
            runtime.close()

    equal, changed = tmp_path / "equal", tmp_path / "changed"
    for folder in (equal, changed):
        shutil.copytree(TINY, folder)
    weights = bytearray((changed / "model.safetensors").read_bytes())
    weights[-1] ^= 0x40
    (changed / "model.safetensors").write_bytes(weights)
    assert told(equal) == told(TINY)
    assert told(changed) != told(TINY)


@pytest.mark.parametrize("setting", ["tokenizer", "generation_config"])
def test_a_folder_that_is_without_what_it_is_named_for(tmp_path: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match=rf"{setting}: .* holds no {setting}") as caught:
        load_model(Settings.from_values({setting: str(tmp_path)}))
    assert caught.value.setting == setting

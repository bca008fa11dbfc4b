"""Default sampling: the model's file, with the settings' own over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from octavo.errors import CheckpointError, ConfigError
from octavo.text import load_default_sampling


def write(folder: Path, content: Any) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(content))
    return folder


def test_without_a_file(tmp_path: Path) -> None:
    for folder in (tmp_path, None):
        defaults = load_default_sampling(folder)
        assert (dict(defaults.values), defaults.max_tokens, defaults.eos_token_ids) == ({}, None, ())


def test_file_and_override(tmp_path: Path) -> None:
    raw = {"temperature": 0.6, "top_k": 20, "top_p": None, "do_sample": True, "eos_token_id": [1, 2]}
    defaults = load_default_sampling(write(tmp_path, raw), {"top_k": 5, "max_new_tokens": 7})
    assert dict(defaults.values) == {"temperature": 0.6, "top_k": 5}
    assert (defaults.max_tokens, defaults.eos_token_ids) == (7, (1, 2))
    assert load_default_sampling(write(tmp_path, {"eos_token_id": 3})).eos_token_ids == (3,)


@pytest.mark.parametrize(
    "override", [{"wrong": 1}, {"temperature": -1}, {"temperature": "hot"}], ids=["name", "range", "type"]
)
def test_a_wrong_override_is_named(tmp_path: Path, override: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="generation_config"):
        load_default_sampling(tmp_path, override)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        load_default_sampling(write(tmp_path, []))


@pytest.mark.parametrize("told", [1.5, "ab", True, {"a": 1}, [1.5], ["a"]], ids=repr)
def test_an_end_that_is_no_token_id(told: Any) -> None:
    with pytest.raises(ConfigError, match="eos_token_id must be a token id"):
        load_default_sampling(None, {"eos_token_id": told})

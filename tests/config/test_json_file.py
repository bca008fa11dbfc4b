"""The files of a model folder that hold a JSON object: one reader, one error for each thing that may be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from octavo.config.json_file import read_json_object
from octavo.errors import CheckpointError
from octavo.models.registry import read_folder
from octavo.text import load_default_sampling
from octavo.text.tokenizer import read_tokenizer_config

WRONG = {
    "nothing": b"",
    "half an object": b'{"a": ',
    "not UTF-8": b'{"a": "\xff"}',
    "deep nesting": b"[" * 200_000,
    "a number of many digits": b'{"a": ' + b"1" * 10_000 + b"}",
    "a list": b"[1]",
    "a text": b'"{}"',
    "null": b"null",
}


def test_an_object_is_read(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text('{"é": [1, null]}', encoding="utf-8")
    assert read_json_object(path) == {"é": [1, None]}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_json_object(tmp_path / "some.json")
    assert str(tmp_path / "some.json") in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "some.json").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        read_json_object(tmp_path / "some.json")
    assert str(tmp_path / "some.json") in str(caught.value)


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("config.json", read_folder),
        ("generation_config.json", load_default_sampling),
        ("tokenizer_config.json", read_tokenizer_config),
        ("special_tokens_map.json", read_tokenizer_config),
    ],
)
def test_whoever_reads_it_names_a_file_that_holds_something_else(
    tmp_path: Path, file: str, read: Callable[[Path], object], name: str
) -> None:
    (tmp_path / file).write_bytes(WRONG[name])
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path)
    assert str(tmp_path / file) in str(caught.value)

"""Tokenizers come from a folder's data files alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.errors import CheckpointError, RequestError
from octavo.text import NoTokenizer, load_tokenizer
from octavo.text.tokenizer import FileTokenizer, token_text
from server.harness import byte_tokenizer

BYTES = byte_tokenizer()


@given(st.text(max_size=50))
def test_encode_and_decode_are_inverse(text: str) -> None:
    ids = BYTES.encode(text)
    assert b"".join(BYTES.piece(id_) for id_ in ids) == text.encode()
    assert BYTES.decode(ids, skip_special_tokens=False) == text


def test_what_it_knows_of_itself() -> None:
    assert BYTES.vocab_size == 258
    assert BYTES.special_ids == {256, 257}
    assert BYTES.special_tokens == {"eos_token": "<|im_end|>"}
    assert BYTES.context_free


@pytest.mark.parametrize(
    ("token_id", "piece", "text"),
    [
        (ord("a"), b"a", "a"),
        (ord(" "), b" ", " "),
        (0xE2, b"\xe2", "bytes:\\xe2"),
        (256, b"<|im_end|>", "<|im_end|>"),
        (299, b"", "token_id:299"),
    ],
    ids=["letter", "space", "part of a character", "special", "without text"],
)
def test_pieces(token_id: int, piece: bytes, text: str) -> None:
    assert BYTES.piece(token_id) == piece
    assert token_text(BYTES, token_id) == text


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(RequestError, match="surrogate"):
        BYTES.encode("a\ud800")


def test_from_a_folder(tmp_path: Path) -> None:
    BYTES._backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "x", "pad_token": "p"}))
    config = {"eos_token": {"content": "<|im_end|>"}, "tokenizer_class": "T"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, FileTokenizer)
    assert tokenizer.special_tokens == {"eos_token": "<|im_end|>", "pad_token": "p"}
    assert tokenizer.info["tokenizer_class"] == "T"
    assert tokenizer.encode("hé") == [104, 195, 169]


def test_a_folder_without_one(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, NoTokenizer)
    assert tokenizer.decode([1, 2]) == ""
    with pytest.raises(RequestError, match="token ids"):
        tokenizer.encode("text")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"], ids=["cut", "list", "not UTF-8"])
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    BYTES._backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        load_tokenizer(tmp_path)

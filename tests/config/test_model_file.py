"""A model folder holds files: what else is there is refused before it is opened, which could take for ever."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from octavo.checkpoints.files import INDEX, SINGLE, find_files
from octavo.checkpoints.folder import ASSETS
from octavo.errors import CheckpointError
from octavo.models.registry import read_folder
from octavo.text import load_chat_template, load_default_sampling, load_tokenizer
from octavo.text.tokenizer import read_tokenizer_config


def make_socket(path: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFSOCK)


def link_to_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


OTHERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (os.mkfifo, "a pipe"),
    "socket": (make_socket, "a socket"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "folder": (Path.mkdir, "a folder"),
    "link": (link_to_pipe, "a pipe"),
}
READERS: dict[str, Callable[[Path], object]] = {
    "config.json": read_folder,
    "generation_config.json": load_default_sampling,
    "tokenizer.json": load_tokenizer,
    "tokenizer_config.json": read_tokenizer_config,
    "special_tokens_map.json": read_tokenizer_config,
    "chat_template.jinja": lambda folder: load_chat_template(folder, override=None, default_kwargs={}),
    SINGLE: find_files,
    INDEX: find_files,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ASSETS / "octavo-tiny", tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_named_and_not_opened(folder: Path, name: str, kind: str) -> None:
    make, called = OTHERS[kind]
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    with pytest.raises(CheckpointError, match=f"it is {called}, and no file") as error:
        READERS[name](folder)
    assert error.value.file == str(folder / name)


@pytest.mark.timeout(30)
def test_a_shard_that_is_no_file_is_named(folder: Path) -> None:
    (folder / INDEX).write_text('{"weight_map": {"a": "a.safetensors"}}')
    os.mkfifo(folder / "a.safetensors")
    with pytest.raises(CheckpointError, match="it is a pipe"):
        find_files(folder)


def test_a_link_to_a_file_is_one(folder: Path) -> None:
    """As the cache of downloads has them."""
    shutil.move(folder / SINGLE, folder / "blob")
    (folder / SINGLE).symlink_to("blob")
    assert list(find_files(folder)) == [folder / SINGLE]

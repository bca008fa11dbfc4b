"""Memory of large blocks goes back to the system when they are freed, in each process that takes bodies in."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from octavo.server.body_process import BodyProcess
from server.heap_use import HeapReader

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such bound")

TELL = "from server.heap_use import tell_and_exit; "
WAYS = {
    "as glibc does": ("False", f"{TELL} tell_and_exit()"),
    "mapped": ("True", f"from octavo.server.heap import map_large_blocks; {TELL} map_large_blocks(); tell_and_exit()"),
    "octavo serve": (
        "True",
        "from octavo.cli.serve import serve; from octavo.config import Settings; "
        f"{TELL} serve(Settings(host='127.0.0.1', port=0, crash_dir='none'), tell_and_exit)",
    ),
}


@pytest.fixture(autouse=True)
def _tests_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(Path(__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.mark.parametrize("way", WAYS)
def test_a_large_block_after_a_freed_one_is_mapped(way: str) -> None:
    """The first way is the twin: without the call, it is cut out of the heap."""
    mapped, script = WAYS[way]
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == mapped


def test_the_process_that_reads_large_bodies_maps_them_too() -> None:
    reader: Any = HeapReader()
    model: Any = HeapReader
    with closing(BodyProcess(reader)) as process:
        assert process.read(model, b"{}").result is True

"""`--logging-level` reaches the worker and the keeper: what they say at debug is on standard error, under their names."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from octavo.config import Settings
from octavo.errors import WorkerDiedError
from octavo.startup import Runtime, start, with_keeper

pytestmark = pytest.mark.usefixtures("warm")
SMALL: dict[str, Any] = {"max_num_seqs": 4, "max_num_batched_tokens": 512, "max_model_len": 1024}
LINE = re.compile(r"^\S+ \S+ (DEBUG|INFO|WARNING) (worker|keeper)\[(\d+)\] octavo\.worker\.\w+: (.*)$", re.MULTILINE)
Read = Callable[[Callable[[str], bool]], str]


@pytest.fixture
def read(capfd: pytest.CaptureFixture[str]) -> Read:
    """All of standard error so far, once it is as wanted: a child's output is passed on by a thread."""
    seen: list[str] = []

    def read_until(enough: Callable[[str], bool]) -> str:
        deadline_s = time.monotonic() + 60
        while not enough("".join(seen)):
            assert time.monotonic() < deadline_s, "".join(seen)
            time.sleep(0.02)
            seen.append(capfd.readouterr().err)
        return "".join(seen)

    return read_until


def begin(tmp_path: Path, level: str) -> Runtime:
    settings = Settings(
        model="octavo-tiny", device="cpu", cpu_threads=1, logging_level=level, crash_dir=str(tmp_path), **SMALL
    )
    return start(settings, with_keeper)


def told(text: str, process: str, pid: int) -> str:
    """What a process has said, line by line."""
    lines = [what for _, name, number, what in LINE.findall(text) if (name, int(number)) == (process, pid)]
    return "\n".join(lines)


def test_worker_and_keeper_say_at_debug_what_they_do(tmp_path: Path, read: Read) -> None:
    runtime = begin(tmp_path, "debug")
    try:
        first = runtime.link.ready.pid
        text = read(lambda text: "ready" in told(text, "worker", first))
        assert LINE.search(text)
        for phase in ("device", "weights", "KV cache", "warm"):
            assert phase in told(text, "worker", first)
        assert "keeper" in {name for _, name, *_ in LINE.findall(text)}

        os.kill(first, signal.SIGKILL)
        with pytest.raises(WorkerDiedError):
            runtime.link.receive(60)
        second = runtime.source.start(runtime.config.num_blocks).ready.pid
        text = read(lambda text: "ready" in told(text, "worker", second))
        assert "mapped" in told(text, "worker", second)
    finally:
        runtime.close()


def test_at_info_nothing_of_that_is_said(tmp_path: Path, read: Read) -> None:
    runtime = begin(tmp_path, "info")
    try:
        text = read(lambda text: "total" in text)  # of the memory table, the last that a start prints
    finally:
        runtime.close()
    assert not LINE.search(text)

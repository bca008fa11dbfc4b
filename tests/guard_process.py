"""Processes that a fault may end."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import IO

import torch

from warm.client import WarmPopen

TESTS = pathlib.Path(__file__).parent
NAMES = ["reads-past-the-end", "writes-past-the-end", "reads-before-the-start", "writes-before-the-start"]
"""The mutants of `guarded.py`."""


@dataclasses.dataclass
class GuardedProcess:
    """`guarded.py` with some groups or a mutant; it runs on while others do."""

    process: subprocess.Popen[bytes]
    written: IO[bytes]

    @classmethod
    def start(cls, *names: str) -> GuardedProcess:
        written = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        paths = [str(TESTS.parent / "src"), str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, str(TESTS / "guarded.py"), *names]
        start = (
            subprocess.Popen if torch.cuda.is_available() else WarmPopen
        )  # a device is opened after a fork, never before
        return cls(start(command, env=environment, stdout=written, stderr=subprocess.STDOUT), written)

    def output(self) -> str:
        """All it wrote, when it has ended."""
        self.process.wait()
        self.written.seek(0)
        return self.written.read().decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.written.close()


def counts(process: GuardedProcess) -> list[str]:
    """The line of each group; fails with the end of what was written if a call met a fault or had other bits."""
    output = process.output()
    assert process.process.returncode == 0, f"exit code {process.process.returncode}\n{output[-4000:]}"
    return [line for line in output.splitlines() if " placements in " in line]


def assert_killed(process: GuardedProcess) -> None:
    """The right kernel ran, and the wrong one met a page that is not there."""
    output = process.output()
    assert "the right kernel ran" in output, output
    assert "the wrong kernel ran" not in output, output
    if torch.cuda.is_available():
        assert "illegal memory access" in output, output
    else:
        assert process.process.returncode == -11, output

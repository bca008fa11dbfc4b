"""A process that waits to become a worker on CUDA has Triton ready; with a GPU it also shows that no device is open."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import time
import torch
from octavo.ops import preload
if {first}:
    preload.preload()
began = time.perf_counter()
preload.preload()
seconds = time.perf_counter() - began
assert not torch.cuda.is_initialized()
print(seconds)
"""


def test_triton_is_ready_afterwards_and_no_device_open() -> None:
    before, after = (seconds(first=first) for first in (False, True))
    assert after < before / 4, "the second time is the twin's first"


def seconds(*, first: bool) -> float:
    """Of a compilation in a new process; `first`: after another one."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM.format(first=first)]
    compiled = {**os.environ, "TRITON_INTERPRET": "0"}
    run = subprocess.run(command, env=compiled, capture_output=True, text=True, check=True, timeout=120)
    return float(run.stdout)

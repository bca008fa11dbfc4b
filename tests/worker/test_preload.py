"""A process that waits to become a worker on CUDA has Triton ready; with a GPU it also shows that no device is open."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import os, sys
import torch, triton
from octavo.ops import preload
if {first}:
    preload.preload()
own, opened = os.path.dirname(triton.__file__), []
sys.addaudithook(lambda event, about: opened.append(about[0]) if event == "open" and str(about[0]).startswith(own) else None)
preload.preload()
assert not torch.cuda.is_initialized()
print(len(opened))
"""


def test_triton_is_ready_afterwards_and_no_device_open() -> None:
    before, after = (files_read(first=first) for first in (False, True))
    assert before > 0, "the twin: nothing was ready"
    assert after == 0


def files_read(*, first: bool) -> int:
    """Of Triton's own, which it hashes, by a compilation in a new process; `first`: after another one."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM.format(first=first)]
    compiled = {**os.environ, "TRITON_INTERPRET": "0"}
    run = subprocess.run(command, env=compiled, capture_output=True, text=True, check=True, timeout=120)
    return int(run.stdout)

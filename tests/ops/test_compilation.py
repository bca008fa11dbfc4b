"""Launches that compile: nothing is computed, all kernels are ready afterwards, and one that does not compile is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = '''
import logging
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from octavo.ops.compilation import compiling_instead, log_compilations

logging.basicConfig(level=logging.DEBUG)
log_compilations()


class Hopper:
    """As much of a driver as a compilation asks for."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


@triton.jit
def fill(out, COUNT: tl.constexpr):
    tl.store(out + tl.arange(0, COUNT), 1.0)


@triton.jit
def broken(out):
    tl.store(out + tl.arange(0, 3), 1.0)


triton.runtime.driver.set_active(Hopper())
out = torch.zeros(8)
launch = triton.JITFunction.run
with compiling_instead(2):
    for count in (1, 2, 4, 4):
        fill[(1,)](out, COUNT=count)
assert not out.any()
assert triton.JITFunction.run is launch
ready, *_ = fill.device_caches[0]
assert len(ready) == 3 and all("fill" in kernel.asm["ptx"] for kernel in ready.values())
try:
    with compiling_instead(2):
        broken[(1,)](out)
except triton.compiler.CompilationError:
    assert triton.JITFunction.run is launch
else:
    raise SystemExit("the broken kernel is not told")
'''


def test_launches_compile_and_compute_nothing(tmp_path: Path) -> None:
    program = tmp_path / "program.py"  # Triton reads the kernels' source
    program.write_text(PROGRAM)
    command = [sys.executable, "-W", "ignore", str(program)]
    compiled = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    run = subprocess.run(command, env=compiled, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("kernel fill compiled in") == 3
    assert "broken" not in run.stderr
    again = subprocess.run(command, env=compiled, capture_output=True, text=True, check=False, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "compiled in" not in again.stderr

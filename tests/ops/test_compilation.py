"""Launches that compile: nothing is computed, all kernels are ready afterwards, and one that does not compile is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

KERNELS = '''
import logging
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from octavo.ops.compilation import compiling_instead, log_compilations

logging.basicConfig(level=logging.DEBUG)
log_compilations()
launchers = []


class Hopper:
    """As much of a driver as a compilation asks for."""

    def launcher_cls(self, src, metadata):
        launchers.append(src.name)

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
def fill_with(out, value, COUNT: tl.constexpr):
    tl.store(out + tl.arange(0, COUNT), value)


@triton.jit
def broken(out):
    tl.store(out + tl.arange(0, 3), 1.0)


out = torch.zeros(8)
'''
WORKING = """
triton.runtime.driver.set_active(Hopper())
launch = triton.JITFunction.run
with compiling_instead(2):
    for count in (1, 2, 4, 4):
        fill[(1,)](out, COUNT=count)
        fill[(1,)](out.bfloat16(), COUNT=count)
        fill_with[(1,)](out, 2.5, COUNT=count)
assert not out.any()
assert sorted(launchers) == ["fill", "fill_with"], launchers  # one for each signature, whatever the constants and types of pointers
assert triton.JITFunction.run is launch
ready, *_ = fill.device_caches[0]
assert len(ready) == 6 and all("fill" in kernel.asm["ptx"] for kernel in ready.values())
try:
    with compiling_instead(2):
        broken[(1,)](out)
except triton.compiler.CompilationError:
    assert triton.JITFunction.run is launch
else:
    raise SystemExit("the broken kernel is not told")
with compiling_instead(2):
    fill[(1,)](out, COUNT=16)  # what has failed is over
"""
WITHOUT_C_COMPILER = """
class WithoutCompiler(Hopper):
    def launcher_cls(self, src, metadata):
        raise RuntimeError("no C compiler")


triton.runtime.driver.set_active(WithoutCompiler())
try:
    with compiling_instead(2):
        fill[(1,)](out, COUNT=1)
except RuntimeError as exc:
    assert str(exc) == "no C compiler"
else:
    raise SystemExit("the missing compiler is not told")
"""


def run(program: str, folder: Path) -> str:
    """What the program, which must end well, says on standard error; `folder` keeps what it compiled."""
    source = folder / "program.py"  # Triton reads the kernels' source
    source.write_text(program)
    command = [sys.executable, "-W", "ignore", str(source)]
    compiled = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder / "cache")}
    ended = subprocess.run(command, env=compiled, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def test_launches_compile_and_compute_nothing(tmp_path: Path) -> None:
    first = run(KERNELS + WORKING, tmp_path)
    assert (first.count("kernel fill compiled in"), first.count("kernel fill_with compiled in")) == (7, 3)
    assert "broken" not in first
    assert "compiled in" not in run(KERNELS + WORKING, tmp_path)


def test_a_launcher_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    run(KERNELS + WITHOUT_C_COMPILER, tmp_path)

"""Kernels that other processes compile: what they write is found under the same keys, and their deaths cost nothing but time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from waits import wait_until

KERNELS = """
import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

ONE = tl.constexpr(1)


@triton.jit
def put(out, value, COUNT: tl.constexpr):
    tl.store(out + tl.arange(0, COUNT), value + ONE)


@triton.jit
def fill(out, COUNT: tl.constexpr):
    put(out, 1.0, COUNT)


@triton.jit
def count(out, COUNT: tl.constexpr):
    put(out, tl.arange(0, COUNT), COUNT)


@triton.jit
def broken(out):
    tl.store(out + tl.arange(0, 3), 1.0)


@gluon.jit
def clear(out, LAYOUT: gl.constexpr):
    gl.store(out + gl.arange(0, 128, LAYOUT), 0.0)


LAYOUT = gl.BlockedLayout([1], [32], [4], [0])
"""
ABROAD = """
import sys

if sys.argv[0].endswith("compiler_process.py"):
"""
"""Opens what only happens where a kernel's module is imported by another process."""
OPENING = """
import logging
import psutil
import torch
import triton
from kernels import LAYOUT, broken, clear, count, fill
from octavo.ops import compiler_process
from octavo.ops.compilation import compiling_instead, log_compilations
from ops.hopper import Hopper

logging.basicConfig(level=logging.DEBUG)
log_compilations()
triton.runtime.driver.set_active(Hopper())
here, found, started = [], [], []
tell, start = triton.knobs.compilation.listener, compiler_process.CompilerProcess


def listen(*, src, cache_hit, **others):
    (found if cache_hit else here).append(src.name)
    tell(src=src, cache_hit=cache_hit, **others)


def start_noted():
    started.append(start())
    return started[-1]


triton.knobs.compilation.listener = listen
compiler_process.CompilerProcess = start_noted
out = torch.zeros(128)
"""
ALL_ABROAD = "\ncompiler_process.OWN_THREADS = 0\n"
FORMS = """
def launch_forms():
    with compiling_instead(4):
        for size in (32, 64, 128):
            fill[(1,)](out, COUNT=size)
            count[(1,)](out.bfloat16(), COUNT=size)
        clear[(1,)](out, LAYOUT=LAYOUT, num_warps=4)


launch_forms()
assert not out.any()
assert not psutil.Process().children()
assert all("ptx" in kernel.asm for each in (fill, count, clear) for kernel in each.device_caches[0][0].values())
"""


def run(program: str, folder: Path, kernels: str = KERNELS) -> str:
    """What the program, which must end well, says on standard error; `folder` keeps what it compiled."""
    with start(program, folder, kernels) as running:
        said = running.communicate(timeout=300)[1]
    assert running.returncode == 0, said
    return said


def start(program: str, folder: Path, kernels: str) -> subprocess.Popen[str]:
    (folder / "kernels.py").write_text(kernels)
    (folder / "program.py").write_text(program)
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), *(path for path in sys.path if path)])
    command = [sys.executable, "-W", "ignore", str(folder / "program.py")]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_another_process_compiles_what_is_found_here(tmp_path: Path) -> None:
    """All kernels, in Triton and in Gluon; once they are compiled, no process is started."""
    first = run(OPENING + ALL_ABROAD + FORMS + "\nassert (len(here), len(found), len(started)) == (0, 7, 1)", tmp_path)
    assert [first.count(f"kernel {name} compiled in") for name in ("fill", "count", "clear")] == [3, 3, 1]
    assert "compiled here" not in first
    again = run(OPENING + ALL_ABROAD + FORMS + "\nassert (len(here), len(found), len(started)) == (0, 7, 0)", tmp_path)
    assert "kernel" not in again


def test_keys_do_not_depend_on_who_has_hashed_what(tmp_path: Path) -> None:
    """`count` has another key once `fill`, which calls the same function, has been hashed: as it is here, where it is found, and not there."""
    fills = OPENING + ALL_ABROAD.replace("0", "1") + "\nwith compiling_instead(4):\n    fill[(1,)](out, COUNT=32)\n"
    run(fills + "assert (here, len(started)) == (['fill'], 0)", tmp_path)
    both = (
        OPENING
        + ALL_ABROAD
        + "\nwith compiling_instead(4):\n    fill[(1,)](out, COUNT=32)\n    count[(1,)](out, COUNT=32)\n"
    )
    told = run(both + "assert (here, sorted(found), len(started)) == ([], ['count', 'fill'], 1)", tmp_path)
    assert "kernel count compiled in" in told


def test_few_kernels_and_few_threads_start_no_process(tmp_path: Path) -> None:
    few = "\nwith compiling_instead(64):\n    fill[(1,)](out, COUNT=32)\n    count[(1,)](out, COUNT=32)\n"
    run(OPENING + few + "assert (sorted(here), started) == (['count', 'fill'], [])", tmp_path)
    narrow = FORMS.replace("compiling_instead(4)", "compiling_instead(3)")
    run(OPENING + narrow + "\nassert (len(here), len(found), started) == (6, 1, [])", tmp_path)


@pytest.mark.parametrize(
    ("accident", "told"),
    [
        ("    import os; os.kill(os.getpid(), 9)\n", "compiled here: the process that was to do it has failed"),
        ("    raise ImportError('not here')\n", "compiled here: another process could not: ImportError: not here"),
        ("    ONE = tl.constexpr(2)\n", "compiled here: another process came to another key"),
    ],
)
def test_what_another_process_does_not_compile_is_compiled_here(tmp_path: Path, accident: str, told: str) -> None:
    kernels = KERNELS.replace("ONE = tl.constexpr(1)\n", "ONE = tl.constexpr(1)\n" + ABROAD + accident)
    said = run(
        OPENING + ALL_ABROAD + FORMS + "\nassert (len(here), len(found), len(started)) == (7, 0, 1)", tmp_path, kernels
    )
    assert told in said


def test_a_kernel_that_does_not_compile_is_told(tmp_path: Path) -> None:
    program = """
try:
    with compiling_instead(4):
        broken[(1,)](out)
except triton.compiler.CompilationError:
    assert (len(started), psutil.Process().children()) == (1, [])
else:
    raise SystemExit("the broken kernel is not told")
"""
    assert "another process could not: CompilationError" in run(OPENING + ALL_ABROAD + program, tmp_path)


def test_it_ends_with_the_process_that_asks_even_in_the_middle_of_a_kernel(tmp_path: Path) -> None:
    program = """
def start_told():
    process = start()
    [child] = psutil.Process().children()
    print(child.pid, flush=True)
    return process


compiler_process.CompilerProcess = start_told
"""
    begun = tmp_path / "begun"
    waits = KERNELS + ABROAD + f"    import time, pathlib; pathlib.Path({str(begun)!r}).touch(); time.sleep(600)\n"
    with start(OPENING + ALL_ABROAD + program + FORMS, tmp_path, waits) as asking:
        assert asking.stdout is not None
        compiler = psutil.Process(int(asking.stdout.readline()))
        wait_until(begun.exists)
        assert compiler.is_running()
        asking.kill()
    wait_until(lambda: not compiler.is_running() or compiler.status() == psutil.STATUS_ZOMBIE)

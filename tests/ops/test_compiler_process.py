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
OPENING = """
import logging
import os
import kernels
import psutil
import torch
import triton
import triton.language as tl
from kernels import LAYOUT, broken, clear, count, fill
from octavo.ops.compilation import compiling_instead, log_compilations
from octavo.ops.compiler_process import Compilers, Job
from ops.hopper import Hopper

logging.basicConfig(level=logging.DEBUG)
log_compilations()
triton.runtime.driver.set_active(Hopper())
here, found, asker = [], [], os.getpid()
tell = triton.knobs.compilation.listener


def listen(*, src, cache_hit, **others):
    (found if cache_hit else here).append(src.name)
    tell(src=src, cache_hit=cache_hit, **others)


triton.knobs.compilation.listener = listen
out = torch.zeros(128)
"""
FORMS = """
def launch_forms(processes=1):
    with compiling_instead(4, Compilers(4, processes)):
        assert len(psutil.Process().children()) == processes
        for size in (32, 64, 128):
            fill[(1,)](out, COUNT=size)
            count[(1,)](out.bfloat16(), COUNT=size)
        clear[(1,)](out, LAYOUT=LAYOUT, num_warps=4)


"""
CHECKS = """
assert not out.any()
assert not psutil.Process().children()
assert all("ptx" in kernel.asm for each in (fill, count, clear) for kernel in each.device_caches[0][0].values())
"""
ACCIDENTS = """
does = Job.{method}


def do(job):
    if os.getpid() != asker:
        {accident}
    does(job)


Job.{method} = do
"""


def run(program: str, folder: Path) -> str:
    """What the program, which must end well, says on standard error; `folder` keeps what it compiled."""
    with start(program, folder) as running:
        said = running.communicate(timeout=300)[1]
    assert running.returncode == 0, said
    return said


def start(program: str, folder: Path) -> subprocess.Popen[str]:
    (folder / "kernels.py").write_text(KERNELS)
    (folder / "program.py").write_text(program)
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), *(path for path in sys.path if path)])
    command = [sys.executable, "-W", "ignore", str(folder / "program.py")]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_another_process_compiles_what_is_found_here(tmp_path: Path) -> None:
    """All kernels, in Triton and in Gluon; once they are compiled, nothing is asked of it."""
    program = OPENING + FORMS + "launch_forms()" + CHECKS + "assert (len(here), len(found)) == (0, 7)"
    first = run(program, tmp_path)
    assert [first.count(f"kernel {name} compiled in") for name in ("fill", "count", "clear")] == [3, 3, 1]
    assert "compiled here" not in first
    assert "kernel" not in run(program, tmp_path)


def test_keys_do_not_depend_on_who_has_hashed_what(tmp_path: Path) -> None:
    """`count` has another key once `fill`, which calls the same function, has been hashed: as it is here, where it is found, and not there."""
    run(OPENING + "\nwith compiling_instead(4):\n    fill[(1,)](out, COUNT=32)\nassert here == ['fill']", tmp_path)
    both = (
        "\nwith compiling_instead(4, Compilers(4, 1)):\n    fill[(1,)](out, COUNT=32)\n    count[(1,)](out, COUNT=32)\n"
    )
    told = run(OPENING + both + "assert (here, sorted(found)) == ([], ['count', 'fill'])", tmp_path)
    assert "kernel count compiled in" in told


def test_without_processes_all_is_compiled_here(tmp_path: Path) -> None:
    run(OPENING + FORMS + "launch_forms(0)" + CHECKS + "assert (len(here), len(found)) == (7, 0)", tmp_path)


def test_several_processes_share_the_kernels(tmp_path: Path) -> None:
    told = run(OPENING + FORMS + "launch_forms(3)" + CHECKS + "assert (len(here), len(found)) == (0, 7)", tmp_path)
    assert "compiled here" not in told


def test_too_little_room_for_processes_is_told(tmp_path: Path) -> None:
    refusal = """
fork = os.fork


def refuse():
    if psutil.Process().children():
        raise BlockingIOError(11, "no room")
    return fork()


os.fork = refuse
compilers = Compilers(4, 3)
os.fork = fork
with compiling_instead(4, compilers):
    fill[(1,)](out, COUNT=32)
assert here == ["fill"]
"""
    assert "kernels are compiled here: no room for 3 processes: [Errno 11] no room" in run(OPENING + refusal, tmp_path)


@pytest.mark.parametrize(
    ("method", "accident", "told"),
    [
        ("run", "os.kill(os.getpid(), 9)", "compiled here: the process that was to do it has failed"),
        ("run", "raise ImportError('not here')", "compiled here: another process could not: ImportError: not here"),
        ("hash_sources", "kernels.ONE = tl.constexpr(2)", "compiled here: another process came to another key"),
    ],
)
def test_what_another_process_does_not_compile_is_compiled_here(
    tmp_path: Path, method: str, accident: str, told: str
) -> None:
    broken = ACCIDENTS.format(method=method, accident=accident)
    program = OPENING + broken + FORMS + "launch_forms()" + CHECKS + "assert (len(here), len(found)) == (7, 0)"
    assert told in run(program, tmp_path)


def test_a_kernel_that_does_not_compile_is_told(tmp_path: Path) -> None:
    program = """
try:
    with compiling_instead(4, Compilers(4, 1)):
        broken[(1,)](out)
except triton.compiler.CompilationError:
    assert not psutil.Process().children()
else:
    raise SystemExit("the broken kernel is not told")
"""
    assert "another process could not: CompilationError" in run(OPENING + program, tmp_path)


def test_a_process_holds_no_file_of_the_one_that_asks(tmp_path: Path) -> None:
    """Whoever waits for the end of the asking process waits for it alone."""
    program = """
ours, theirs = os.pipe()
compilers = Compilers(4, 2)
os.close(theirs)
assert os.read(ours, 1) == b""
for child in psutil.Process().children():
    names = {file: os.readlink(f"/proc/{child.pid}/fd/{file}") for file in os.listdir(f"/proc/{child.pid}/fd")}
    assert sum(name.startswith("socket") for name in names.values()) == 2, names
    assert {name for file, name in names.items() if file != "2" and not name.startswith("socket")} <= {"/dev/null", "anon_inode:[eventpoll]"}
compilers.close()
"""
    run(OPENING + program, tmp_path)


def test_what_the_dying_process_says_last_stays_the_last(tmp_path: Path) -> None:
    program = """
import sys
import time
compilers = Compilers(4, 2)
while [child.num_threads() for child in psutil.Process().children()] != [3, 3]:
    time.sleep(0.01)
print("the cause", file=sys.stderr, flush=True)
os.kill(os.getpid(), 9)
"""
    with start(OPENING + program, tmp_path) as asking:
        said = asking.communicate(timeout=300)[1]  # until nobody holds standard error any more
    assert said.splitlines()[-1] == "the cause"


def test_what_is_kept_from_collections_stays_kept(tmp_path: Path) -> None:
    program = """
import gc
gc.freeze()
kept = gc.get_freeze_count()
compilers = Compilers(4, 2)
assert gc.get_freeze_count() >= kept
compilers.close()
"""
    run(OPENING + program, tmp_path)


def test_processes_end_where_nobody_is_told_of_their_end(tmp_path: Path) -> None:
    """A parent may have had signals of children ignored, which is inherited."""
    ignored = (
        "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\ncompilers = Compilers(4, 2)\ncompilers.close()"
    )
    run(OPENING + ignored + "\nassert not psutil.Process().children()", tmp_path)


def test_it_ends_with_the_process_that_asks_even_in_the_middle_of_a_kernel(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    accident = f"import time, pathlib; pathlib.Path({str(begun)!r}).write_text(str(os.getpid())); time.sleep(600)"
    program = OPENING + ACCIDENTS.format(method="run", accident=accident) + FORMS + "launch_forms()"
    with start(program, tmp_path) as asking:
        wait_until(lambda: begun.exists() and begun.read_text() != "")
        compiler = psutil.Process(int(begun.read_text()))
        assert compiler.is_running()
        asking.kill()
    wait_until(lambda: not compiler.is_running() or compiler.status() == psutil.STATUS_ZOMBIE)

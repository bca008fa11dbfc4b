"""The processes of a server on this machine, found in /proc."""

from __future__ import annotations

import contextlib
import enum
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from octavo.errors import OctavoError


class Kind(enum.StrEnum):
    """What a process of a server is for."""

    WORKER = "worker"
    STANDBY = "standby"
    """It waits to become the worker, or is about to."""
    KEEPER = "keeper"
    OTHER = "other"


MODULES = {b"octavo.worker": Kind.STANDBY, b"octavo.worker.keeper": Kind.KEEPER}
"""What a process runs -> its kind; which of the first is the worker, the server knows."""


def family(server: int, worker: int | None) -> dict[Kind, list[int]]:
    """Kind -> pids of the children of process `server`; `worker`: the pid that the server tells as its worker's."""
    found: dict[Kind, list[int]] = {kind: [] for kind in Kind}
    for pid in children(server):
        modules = MODULES.keys() & set(_command(pid))
        kind = MODULES[modules.pop()] if modules else Kind.OTHER
        found[Kind.WORKER if kind is Kind.STANDBY and pid == worker else kind].append(pid)
    return found


def children(server: int) -> list[int]:
    """Processes that process `server` has started and that have not ended; its own forks' too."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # the name, in parentheses, may hold anything
            state, parent = path.read_bytes().rpartition(b")")[2].split()[:2]
            if int(parent) == server and state != b"Z":
                found.append(int(path.parent.name))
    return sorted(found)


def check_worker(pid: int) -> None:
    """Check that `pid` is a worker of Octavo before it is killed.

    Raises:
        OctavoError: it is something else.
    """
    command = _command(pid)
    if not command:
        raise OctavoError(f"the worker, process {pid}, is not on this machine")
    if b"octavo.worker" not in command:
        raise OctavoError(f"process {pid} is no worker of Octavo: {b' '.join(command)[:200]!r}")


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Run `count` processes of low priority that compute without end; they end with this one."""
    program = "import os\nos.nice(10)\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _command(pid: int) -> list[bytes]:
    """The words it was started with; none if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return []

"""A stand-in for `subprocess` whose Python processes start in a twentieth of the time: forked from one that has imported all.

They are what `subprocess.Popen` makes in all that it does later: children of this process, with their own exit codes,
descriptors, session and command line. For tests of what processes do, not of how the interpreter starts.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

TESTS = Path(__file__).parents[1]
SET_CHILD_SUBREAPER = 36
"""Of prctl: orphans among the descendants become children of this process."""
TEMPLATE_ROOM = "room for the command lines of others " * 200


class Client:
    """The way to a template process, which is a child of this one.

    Args:
        line: to it.
        pid: of it.
    """

    def __init__(self, line: socket.socket, pid: int) -> None:
        self._line = line
        self._pid = pid
        self._lock = threading.Lock()
        self._system = ctypes.CDLL(None)
        atexit.register(self.close)

    def order(self, message: bytes, descriptors: list[int]) -> int:
        """Returns the id of a new child of this process."""
        with self._lock:
            self._system.prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(self._line, [len(message).to_bytes(4, "little")], descriptors)
                self._line.sendall(message)
                answer = self._line.recv(32)
            finally:
                self._system.prctl(SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        if not answer:
            raise OSError("the process that forks has ended")
        return int(answer)

    def close(self) -> None:
        """End the template; not the processes that came from it."""
        self._line.close()
        with contextlib.suppress(ChildProcessError):
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


_client: Client | None = None
_starting = threading.Lock()


def client() -> Client:
    """The template of this process, started when it is first wanted."""
    global _client
    with _starting:
        if _client is None:
            ours, theirs = socket.socketpair()
            path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
            # What OpenMP reads when it is loaded is as `octavo.engine.processes.child` has it for those to come.
            environment = {"GOMP_SPINCOUNT": "5000", **os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-P", "-m", "warm.template", TEMPLATE_ROOM]
            with theirs:
                pid = os.posix_spawn(
                    sys.executable, command, environment, file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)]
                )
            _client = Client(ours, pid)
        return _client


def install(client: Client) -> None:
    """Have the processes of Octavo that are started here forked by the template of `client`."""
    global _client
    _client = client
    import octavo.engine.processes.child as child

    vars(child)["subprocess"] = SUBPROCESS


class WarmPopen(subprocess.Popen[Any]):
    """As `subprocess.Popen`, which it is for all but `[sys.executable, ["-P",] "-m", MODULE, ...]`, `"-c", PROGRAM` and files."""

    def _execute_child(
        self,
        args: Any,
        executable: Any,
        preexec_fn: Any,
        close_fds: bool,
        pass_fds: tuple[int, ...],
        cwd: Any,
        env: Any,
        startupinfo: Any,
        creationflags: int,
        shell: bool,
        p2cread: int,
        p2cwrite: int,
        c2pread: int,
        c2pwrite: int,
        errread: int,
        errwrite: int,
        *rest: Any,
    ) -> None:
        pipes = (p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
        interpreter, *words = (str(word) for word in args)
        if interpreter != sys.executable or preexec_fn is not None:
            options = (executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell)
            super()._execute_child(args, *options, *pipes, *rest)  # type: ignore[misc]
            return
        *_, session, _group = rest
        standard = [own if fd == -1 else fd for own, fd in enumerate((p2cread, c2pwrite, errwrite))]
        order = {
            "words": words,
            "environment": dict(os.environ if env is None else env),
            "folder": os.getcwd() if cwd is None else str(cwd),
            "numbers": [0, 1, 2, *pass_fds],
            "session": session,
        }
        self.args = args
        self.pid = client().order(msgspec.msgpack.encode(order), [*standard, *pass_fds])
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def run(command: list[str], *, timeout_s: float, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run`; returns what the process said, as text."""
    with WarmPopen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


SUBPROCESS = SimpleNamespace(
    Popen=WarmPopen, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT, TimeoutExpired=subprocess.TimeoutExpired
)
"""For `octavo.engine.processes.child`, instead of the module of that name."""

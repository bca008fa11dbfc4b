"""A process that the engine started, and what it printed last."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO

STDERR = 2
"""File descriptor."""
LAST_WORDS_S = 0.05
"""How long to wait for what a dead child printed before it died."""
TELL_STACK = signal.SIGUSR1
"""Upon which workers print the Python stack of their main thread."""
KEPT_LINES = 30
"""Lines of the child's output kept for the error message."""


class ChildProcess:
    """A process with its output passed on to our standard error, the last lines kept.

    Args:
        command: the program and its arguments.
        standard_input: what it gets as that; stays open here.

    Raises:
        OSError, RuntimeError, MemoryError: the system has no room for another process, or for a thread beside it.
    """

    def __init__(self, command: list[str], standard_input: socket.socket) -> None:
        # A session of its own: Ctrl-C in the terminal reaches the parent, which drains before it ends the child.
        # OpenMP threads that spin while they wait make a worker on a CPU ten times as slow when anybody else, such as this
        # process, needs a core, and threads that sleep at once three times as slow when nobody does: they spin for
        # microseconds (a setting of libgomp), then sleep, unless the user says otherwise.
        self._process = subprocess.Popen(
            command,
            stdin=standard_input.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={"GOMP_SPINCOUNT": "5000", **os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self._process.stdout is not None
        self._lines: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._reader = threading.Thread(target=self._pass_on, args=(self._process.stdout,), daemon=True)
        try:
            self._reader.start()
        except BaseException:
            self._reap()
            self._process.stdout.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stopped(self) -> bool:
        """Somebody has sent it SIGSTOP, or debugs it."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
        except OSError:
            return False

    def exit_code(self, timeout_s: float) -> int | None:
        """Waits for the exit code as the system says it (negative: the signal); None if the child still runs after `timeout_s` seconds."""
        if (code := self._process.poll()) is not None or not timeout_s:
            return code
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def last_lines(self) -> list[str]:
        """The last lines of its output."""
        if self._process.poll() is not None:
            self._reader.join(LAST_WORDS_S)
        return [line.decode("utf-8", "replace").rstrip() for line in self._lines.copy()]

    def tell_stack(self) -> None:
        """Make it print what it is at, if it is one of ours that still runs, and wait for that."""
        if self._process.poll() is None:
            self._process.send_signal(TELL_STACK)
            time.sleep(LAST_WORDS_S)

    def last_words(self) -> str:
        """The last lines of its output, as the end of a message."""
        lines = self.last_lines()
        return "; its last output:\n" + "\n".join(lines) if lines else ""

    def kill(self) -> None:
        """Kill it: it holds nothing that is not a cache, and one that hangs would hear no request."""
        self._process.kill()

    def end(self, grace_s: float = 0.0) -> None:
        """Kill it if it still runs after `grace_s` seconds, and wait."""
        self.exit_code(grace_s)
        self._reap()
        self._reader.join(LAST_WORDS_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _reap(self) -> None:
        self._process.kill()
        self._process.wait()

    def _pass_on(self, output: IO[bytes]) -> None:
        """Copy output as it comes: a progress bar is no whole line."""
        rest = b""
        while data := os.read(output.fileno(), 4096):
            # our own standard error may be full, or closed: then its number is that of somebody else's file
            if sys.__stderr__ is not None:
                with contextlib.suppress(OSError):
                    os.write(STDERR, data)
            lines = (rest[-4096:] + data).splitlines(keepends=True)
            rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
            self._lines.extend(lines)
        if rest:
            self._lines.append(rest)

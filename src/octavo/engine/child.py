"""A process that the engine started, and what it printed last."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from typing import IO

STDERR = 2
"""File descriptor."""
LAST_WORDS_S = 0.05
"""How long to wait for what a dead child printed before it died."""
TELL_STACK = signal.SIGUSR1
"""Upon which workers print the Python stack of their main thread."""
KEPT_LINES = 30
"""Lines of the child's output kept for the error message."""


class Child:
    """A process with its output passed on to our standard error, the last lines kept."""

    def __init__(self, command: list[str]) -> None:
        # A session of its own: Ctrl-C in the terminal reaches the parent, which drains before it ends the child.
        # OpenMP threads that spin while they wait make a worker on a CPU ten times as slow when anybody else, such as this
        # process, needs a core, and threads that sleep at once three times as slow when nobody does: they spin for
        # microseconds (a setting of libgomp), then sleep, unless the user says otherwise.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={"GOMP_SPINCOUNT": "5000", **os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._lines: deque[bytes] = deque(maxlen=KEPT_LINES)
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._pass_on, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> int:
        """File descriptor of our end of the pipe that it prints to."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def exit_code(self, timeout_s: float) -> int | None:
        """What the system says (negative: the signal), or None if it still runs after `timeout_s` seconds."""
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
        """End its standard input, kill it if it still runs after `grace_s` seconds, and wait."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self.exit_code(grace_s)
        self._process.kill()
        self._process.wait()
        self._reader.join(LAST_WORDS_S)
        self._process.stdout.close()

    def _pass_on(self, output: IO[bytes]) -> None:
        """Copy output as it comes: a progress bar is no whole line."""
        rest = b""
        while data := os.read(output.fileno(), 4096):
            os.write(STDERR, data)
            lines = (rest[-4096:] + data).splitlines(keepends=True)
            rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
            self._lines.extend(lines)
        if rest:
            self._lines.append(rest)

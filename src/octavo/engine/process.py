"""The worker as a process of its own, at the other end of a socket that only this user can open.

The engine starts `python -m octavo.worker --socket ipc://PATH` and binds a ZeroMQ PAIR socket at PATH, in a fresh
directory of mode 0700. The child connects, gets a `WorkerConfig`, and answers `WorkerReady` or `WorkerFault`; then plans
go one way and results the other, all as MessagePack. The child's standard input is a pipe that is never written: at its
end the parent is gone, and the child must exit.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO

import msgspec
import zmq

from octavo.errors import ConfigError, WorkerDiedError
from octavo.messages import StepPlan, StepResult, WorkerConfig, WorkerFault, WorkerMessage, WorkerReady

STDERR = 2
"""File descriptor."""
LOOK_S = 0.1
"""While waiting for a message: how often to look whether the child is alive."""
LAST_WORDS_S = 0.05
"""How long to wait for what a dead child sent and printed before it died."""
EXIT_S = 0.5
"""How long a child may take to exit after a fault, or to make room for a message."""
CLOSE_S = 5.0
"""How long a child may take to end when asked to, before it is killed."""
KEPT_LINES = 30
"""Lines of the child's output kept for the error message."""


class ProcessWorker:
    """A `WorkerLink` to a child process; starting it waits until the model is loaded.

    Used by one thread at a time.

    Raises:
        WorkerDiedError: the child ended, reported a fault, or was not ready within `start_timeout_s` seconds.
        ConfigError: no socket can be made in the temporary directory.
    """

    def __init__(self, config: WorkerConfig, start_timeout_s: float, module: str = "octavo.worker") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="octavo-"))
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(WorkerMessage).decode
        self._context = zmq.Context()
        self._closed = False
        try:
            self._socket = self._context.socket(zmq.PAIR)
            address = f"ipc://{self._folder / 'worker'}"
            _bind(self._socket, address)
            self._child = _Child([sys.executable, "-P", "-m", module, "--socket", address])
        except BaseException:
            self._remove()
            raise
        try:
            self._ready = self._start(config, time.monotonic() + start_timeout_s)
        except BaseException:
            self.close()
            raise

    @property
    def ready(self) -> WorkerReady:
        return self._ready

    def send(self, plan: StepPlan) -> None:
        self._send(self._encode(plan), time.monotonic() + EXIT_S)

    def receive(self, timeout_s: float | None) -> StepResult | None:
        message = self._receive(None if timeout_s is None else time.monotonic() + timeout_s)
        if message is None or isinstance(message, StepResult):
            return message
        raise WorkerDiedError(f"the worker sent {type(message).__name__} instead of a result")

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._child.end()
            self._remove()

    def _start(self, config: WorkerConfig, deadline_s: float) -> WorkerReady:
        self._send(self._encode(config), deadline_s)
        message = self._receive(deadline_s)
        if message is None:
            raise WorkerDiedError("the worker was not ready in time; worker_start_timeout sets how long it may take")
        if not isinstance(message, WorkerReady):
            raise WorkerDiedError(f"the worker sent {type(message).__name__} before it was ready")
        return message

    def _send(self, data: bytes, deadline_s: float) -> None:
        """Send once the child takes messages; a PAIR socket without a peer takes none."""
        self._check_open()
        while not self._socket.poll(_milliseconds(deadline_s), zmq.POLLOUT):
            self._check_child()
            if time.monotonic() >= deadline_s:
                raise WorkerDiedError("the worker takes no messages" + self._child.last_words())
        self._check_child()
        self._socket.send(data, zmq.NOBLOCK)

    def _receive(self, deadline_s: float | None) -> WorkerMessage | None:
        """The next message, or None at the deadline; looks at the child again and again."""
        self._check_open()
        while not self._socket.poll(_milliseconds(deadline_s)):
            self._check_child()
            if deadline_s is not None and time.monotonic() >= deadline_s:
                return None
        return self._read()

    def _read(self) -> WorkerMessage:
        """The message that has arrived.

        Raises:
            WorkerDiedError: it is a fault, or nothing that a worker says.
        """
        try:
            message: WorkerMessage = self._decode(self._socket.recv(zmq.NOBLOCK))
        except msgspec.MsgspecError as exc:
            raise WorkerDiedError(f"the worker sent what cannot be read: {exc}") from exc
        if isinstance(message, WorkerFault):
            code = self._child.exit_code(EXIT_S)
            raise WorkerDiedError(f"the worker met a fault: {message.message}\n{message.traceback}", exit_code=code)
        return message

    def _check_open(self) -> None:
        if self._closed:
            raise WorkerDiedError("the worker was closed")

    def _check_child(self) -> None:
        """Raise if the child has ended; a fault it sent before says more than its exit code."""
        code = self._child.exit_code(0)
        if code is None:
            return
        while self._socket.poll(int(1000 * LAST_WORDS_S)):
            self._read()
        raise WorkerDiedError(f"the worker ended: {_reason(code)}" + self._child.last_words(), exit_code=code)

    def _remove(self) -> None:
        self._context.destroy(linger=0)
        shutil.rmtree(self._folder, ignore_errors=True)


class _Child:
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

    def exit_code(self, timeout_s: float) -> int | None:
        """What the system says (negative: the signal), or None if it still runs after `timeout_s` seconds."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def last_words(self) -> str:
        """The last lines of its output, as the end of a message."""
        if self._process.poll() is not None:
            self._reader.join(LAST_WORDS_S)
        lines = [line.decode("utf-8", "replace").rstrip() for line in self._lines]
        return "; its last output:\n" + "\n".join(lines) if lines else ""

    def end(self) -> None:
        """Ask it to end, kill it if it does not, and wait."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.terminate()
        if self.exit_code(CLOSE_S) is None:
            self._process.kill()
            self._process.wait()
        self._reader.join(LAST_WORDS_S)
        self._process.stdout.close()

    def _pass_on(self, output: IO[bytes]) -> None:
        """Copy output as it comes: a progress bar is no whole line."""
        line = b""
        while data := os.read(output.fileno(), 4096):
            os.write(STDERR, data)
            *whole, line = (line[-4096:] + data).splitlines(keepends=True)
            self._lines.extend(whole)
        self._lines.append(line)


def _bind(socket: zmq.Socket[bytes], address: str) -> None:
    try:
        socket.bind(address)
    except zmq.ZMQError as exc:
        raise ConfigError("TMPDIR", f"no socket can be made at {address}: {exc.strerror}") from exc


def _milliseconds(deadline_s: float | None) -> int:
    """How long to poll until the deadline or the next look at the child."""
    if deadline_s is None:
        return int(1000 * LOOK_S)
    return max(0, min(int(1000 * LOOK_S), int(1000 * (deadline_s - time.monotonic())) + 1))


def _reason(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"

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

from octavo.errors import ConfigError, DeathCause, WorkerDiedError
from octavo.messages import StepPlan, StepResult, WorkerConfig, WorkerFault, WorkerMessage, WorkerReady

STDERR = 2
"""File descriptor."""
LOOK_S = 0.1
"""While waiting for a message: how often to look whether the child is alive."""
LAST_WORDS_S = 0.05
"""How long to wait for what a dead child sent and printed before it died."""
EXIT_S = 0.5
"""How long a child may take to exit after a fault, or to make room for a message."""
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
        self._late: deque[WorkerMessage] = deque()
        """What a child that has ended said before, not yet received."""
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
        while not self._late and not self._socket.poll(_milliseconds(deadline_s)):
            death = self._death()
            if death is not None and not self._late:
                raise death
            if not self._late and deadline_s is not None and time.monotonic() >= deadline_s:
                return None
        return self._read()

    def _read(self) -> WorkerMessage:
        """The message that has arrived.

        Raises:
            WorkerDiedError: it is a fault, or nothing that a worker says.
        """
        message = self._late.popleft() if self._late else self._take()
        if isinstance(message, WorkerFault):
            raise _fault(message, self._child.exit_code(EXIT_S))
        return message

    def _take(self) -> WorkerMessage:
        """Decode what is in the socket."""
        try:
            message: WorkerMessage = self._decode(self._socket.recv(zmq.NOBLOCK))
        except msgspec.MsgspecError as exc:
            raise WorkerDiedError(f"the worker sent what cannot be read: {exc}") from exc
        return message

    def _check_open(self) -> None:
        if self._closed:
            raise WorkerDiedError("the worker was closed")

    def _check_child(self) -> None:
        """Raise if the child has ended."""
        death = self._death()
        if death is not None:
            raise death

    def _death(self) -> WorkerDiedError | None:
        """Why the child has ended, if it has: a fault it sent says more than its exit code.

        The results it sent before stay to be received.
        """
        code = self._child.exit_code(0)
        if code is None:
            return None
        while self._socket.poll(int(1000 * LAST_WORDS_S)):
            self._late.append(self._take())
        for message in self._late:
            if isinstance(message, WorkerFault):
                return _fault(message, code)
        return WorkerDiedError(f"the worker ended: {_reason(code)}" + self._child.last_words(), exit_code=code)

    def _remove(self) -> None:
        self._context.destroy(linger=0)
        shutil.rmtree(self._folder, ignore_errors=True)


class ProcessSupply:
    """A `WorkerSupply` of processes that each load the model for themselves.

    Args:
        config: what every worker is told.
        start_timeout_s: how long one may take to become ready.
    """

    def __init__(self, config: WorkerConfig, start_timeout_s: float, module: str = "octavo.worker") -> None:
        self._config = config
        self._start_timeout_s = start_timeout_s
        self._module = module
        self._worker: ProcessWorker | None = None

    def start(self, num_blocks: int | None) -> ProcessWorker:
        self.close()
        config = msgspec.structs.replace(self._config, num_blocks=num_blocks)
        self._worker = ProcessWorker(config, self._start_timeout_s, self._module)
        return self._worker

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()


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
        """Kill it and wait: it holds nothing that is not a cache, and one that hangs would hear no request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
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


def _fault(fault: WorkerFault, code: int | None) -> WorkerDiedError:
    message = f"the worker met a fault: {fault.message}\n{fault.traceback}"
    return WorkerDiedError(message, exit_code=code, cause=DeathCause.FAULT)


def _reason(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"

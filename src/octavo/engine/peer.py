"""A child process at the other end of a socket that only this user can open.

The engine starts `python -m MODULE --socket ipc://PATH` and binds a ZeroMQ PAIR socket at PATH, in a fresh directory of
mode 0700. The child connects, and messages go both ways as MessagePack. The child's standard input is a pipe that is
never written: at its end the parent is gone, and the child must exit.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import msgspec
import zmq

from octavo.engine.child import LAST_WORDS_S, Child
from octavo.errors import ConfigError, DeathCause, WorkerDiedError
from octavo.messages import CheckpointRefusal, ConfigRefusal, EngineMessage, WorkerFault, WorkerMessage

LOOK_S = 0.1
"""While waiting for a message: how often to look whether the child is alive."""
EXIT_S = 0.5
"""How long a child may take to exit after a fault."""


class Peer:
    """A process that is spoken to; used by one thread at a time.

    Args:
        module: what it runs.
        arguments: of its command line, after `--socket`.
        name: what errors call it.
        under: a command that runs it, with its arguments, such as a debugger.
        grace_s: how long it, or that command, may take to end when this is closed.

    Raises:
        ConfigError: no socket can be made in the temporary directory.
    """

    def __init__(
        self, module: str, *arguments: str, name: str = "worker", under: Sequence[str] = (), grace_s: float = 0.0
    ) -> None:
        self._name = name
        self._grace_s = grace_s
        self._folder = Path(tempfile.mkdtemp(prefix="octavo-"))
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(WorkerMessage).decode
        self._context = zmq.Context()
        self._closed = False
        self._needed: Peer | None = None
        self._late: deque[WorkerMessage] = deque()
        """What a child that has ended said before, not yet received."""
        try:
            self._socket = self._context.socket(zmq.PAIR)
            address = f"ipc://{self._folder / 'peer'}"
            _bind(self._socket, address)
            self._child = Child([*under, sys.executable, "-P", "-m", module, "--socket", address, *arguments])
            self._poller = zmq.Poller()
            self._poller.register(self._socket, zmq.POLLIN)
            # Nothing is read here: the other end closes when the child ends, which poll tells at once.
            self._poller.register(self._child.output, zmq.POLLERR)
        except BaseException:
            self._remove()
            raise

    @property
    def pid(self) -> int:
        return self._child.pid

    def need(self, other: Peer) -> None:
        """From now on the death of `other` is this one's too."""
        self._needed = other

    def send(self, message: EngineMessage, deadline_s: float) -> None:
        """Send once the child takes messages; a PAIR socket without a peer takes none.

        Raises:
            WorkerDiedError: the child has ended, or takes none until `deadline_s` on the monotonic clock.
        """
        self._check_open()
        while not self._socket.poll(_milliseconds(deadline_s), zmq.POLLOUT):
            self._check()
            if time.monotonic() >= deadline_s:
                raise WorkerDiedError(f"the {self._name} takes no messages" + self._child.last_words())
        self._check()
        self._socket.send(self._encode(message), zmq.NOBLOCK)

    def receive(self, deadline_s: float | None) -> WorkerMessage | None:
        """The next message, or None at `deadline_s` on the monotonic clock; looks at the child again and again.

        Raises:
            WorkerDiedError: the child has ended, reports a fault, or says what cannot be read.
            ConfigError, CheckpointError: the child cannot work with what it was told.
        """
        self._check_open()
        while not self._late and not self._arrived(deadline_s):
            death = self.death()
            if death is not None and not self._late:
                raise death
            if not self._late and deadline_s is not None and time.monotonic() >= deadline_s:
                return None
        message = self._late.popleft() if self._late else self._take()
        if isinstance(message, WorkerFault):
            raise self._fault(message, self._child.exit_code(EXIT_S))
        if isinstance(message, (ConfigRefusal, CheckpointRefusal)):
            raise message.error()
        return message

    def death(self) -> WorkerDiedError | None:
        """Why the child has ended, if it has: a fault it sent says more than its exit code.

        The results it sent before stay to be received.
        """
        code = self._child.exit_code(0)
        if code is None:
            return None if self._needed is None else self._needed.death()
        while not self._closed and self._socket.poll(int(1000 * LAST_WORDS_S)):
            self._late.append(self._take())
        for message in self._late:
            if isinstance(message, WorkerFault):
                return self._fault(message, code)
        return WorkerDiedError(f"the {self._name} ended: {_reason(code)}" + self._child.last_words(), exit_code=code)

    def last_output(self) -> list[str]:
        """The last lines it printed; if it still runs, they end with the stack that it is at."""
        self._child.tell_stack()
        return self._child.last_lines()

    def kill(self) -> None:
        """Kill it and return at once."""
        self._child.kill()

    def close(self) -> None:
        """Kill it and wait until it has ended; safe to call twice."""
        if not self._closed:
            self._closed = True
            self._child.end(self._grace_s)
            self._remove()

    def _arrived(self, deadline_s: float | None) -> bool:
        """Wait for a message, the end of the child, the deadline or the next look; whether it was a message."""
        events = dict(self._poller.poll(_milliseconds(deadline_s)))
        if self._child.output in events:
            self._child.exit_code(LAST_WORDS_S)
        return self._socket in events

    def _take(self) -> WorkerMessage:
        """Decode what is in the socket."""
        try:
            message: WorkerMessage = self._decode(self._socket.recv(zmq.NOBLOCK))
        except msgspec.MsgspecError as exc:
            raise WorkerDiedError(f"the {self._name} sent what cannot be read: {exc}") from exc
        return message

    def _check_open(self) -> None:
        if self._closed:
            raise WorkerDiedError(f"the {self._name} was closed")

    def _check(self) -> None:
        """Raise if the child, or what it needs, has ended."""
        death = self.death()
        if death is not None:
            raise death

    def _fault(self, fault: WorkerFault, code: int | None) -> WorkerDiedError:
        message = f"the {self._name} met a fault: {fault.message}\n{fault.traceback}"
        return WorkerDiedError(message, exit_code=code, cause=DeathCause.FAULT, traceback=fault.traceback)

    def _remove(self) -> None:
        self._context.destroy(linger=0)
        shutil.rmtree(self._folder, ignore_errors=True)


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

"""A child process at the other end of a wire.

The engine starts `python -m MODULE` with one end of a socket pair as its standard input, and messages go both ways over
that as MessagePack. When the engine's end closes, the parent is gone, and the child must exit.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import weakref
from collections import deque
from collections.abc import Sequence

import msgspec

from octavo.engine.processes.child import ChildProcess
from octavo.errors import DeathCause, WorkerDiedError
from octavo.messages import CheckpointRefusal, ConfigRefusal, EngineMessage, WorkerFault, WorkerMessage
from octavo.wire import Wire

LOOK_S = 0.1
"""While waiting for a message: how often to look whether the child, and what it needs, are alive."""
END_S = 10.0
"""How long a child that has closed its end of the wire may take to end; how it ended says who is to blame."""
EXIT_S = 0.5
"""How long a child may take to exit after a fault."""


_channels: weakref.WeakSet[ProcessChannel] = weakref.WeakSet()
"""Those of this process."""


class ProcessChannel:
    """A process that is spoken to; used by one thread at a time.

    Args:
        module: what it runs.
        arguments: of its command line.
        name: what errors call it.
        under: a command that runs it, with its arguments, such as a debugger.
        grace_s: how long it, or that command, may take to end when this is closed.

    Raises:
        OSError, RuntimeError, MemoryError: the system has no room for another process.
    """

    def __init__(
        self, module: str, *arguments: str, name: str = "worker", under: Sequence[str] = (), grace_s: float = 0.0
    ) -> None:
        self._name = name
        self._grace_s = grace_s
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(WorkerMessage).decode
        self._closed = False
        self._needed: ProcessChannel | None = None
        self._late: deque[WorkerMessage] = deque()
        """What a child that has ended said before, not yet received."""
        ours, theirs = socket.socketpair()
        self._wire = Wire(ours)
        try:
            # -P: the folder we were started in is nobody's library.
            self._child = ChildProcess([*under, sys.executable, "-P", "-m", module, *arguments], theirs)
        except BaseException:
            self._wire.close()
            raise
        finally:
            theirs.close()
        _channels.add(self)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def stopped(self) -> bool:
        """Somebody has stopped the child, as SIGSTOP does; it can go on."""
        return self._child.stopped

    def need(self, other: ProcessChannel) -> None:
        """Makes the death of `other` count as the death of this child too, from now on."""
        self._needed = other

    def send(self, message: EngineMessage) -> None:
        """Queue `message`; what the child has no room for yet is written while it is received from.

        Raises:
            WorkerDiedError: the child has ended.
            ConfigError, CheckpointError: because it could not work with what it was told.
        """
        self._check_open()
        self.check()
        self._wire.send(self._encode(message))

    def receive(self, deadline_s: float | None) -> WorkerMessage | None:
        """The next message, or None at `deadline_s` on the monotonic clock; looks at the child again and again.

        Raises:
            WorkerDiedError: the child has ended, reports a fault, or says what cannot be read.
            ConfigError, CheckpointError: the child cannot work with what it was told.
        """
        self._check_open()
        while (message := self._next()) is None:
            if self._wire.ended:
                # Its files are closed before the system is done with it: a GPU takes a moment to let a process go.
                self._child.exit_code(END_S)
            if (death := self.death()) is not None:
                if self._late:
                    continue
                raise death
            if self._wire.ended:
                raise WorkerDiedError(f"the {self._name} has closed its end of the wire" + self._child.last_words())
            left_s = LOOK_S if deadline_s is None else deadline_s - time.monotonic()
            if left_s <= 0:
                return None
            self._wire.wait(min(left_s, LOOK_S))
        if isinstance(message, WorkerFault):
            raise self._fault(message, self._child.exit_code(EXIT_S))
        if isinstance(message, (ConfigRefusal, CheckpointRefusal)):
            raise message.error()
        return message

    def death(self) -> WorkerDiedError | None:
        """Why the child has ended, if it has: a fault it sent says more than its exit code.

        The results it sent before stay to be received. If what it needs has ended, that is why: without a keeper's
        memory a worker meets faults of its own.
        """
        if self._needed is not None and (death := self._needed.death()) is not None:
            return death
        code = self._child.exit_code(0)
        if code is None:
            return None
        while not self._closed and (message := self._take()) is not None:
            self._late.append(message)
        for message in self._late:
            if isinstance(message, WorkerFault):
                return self._fault(message, code)
        return WorkerDiedError(f"the {self._name} ended: {_reason(code)}" + self._child.last_words(), exit_code=code)

    def check(self) -> None:
        """Look whether the child, and what it needs, are alive; what it said last of what it was told says more than that it is not.

        Raises:
            WorkerDiedError: one of them has ended.
            ConfigError, CheckpointError: because it could not work with what it was told.
        """
        death = self.death()
        if death is not None:
            for message in self._late:
                if isinstance(message, (ConfigRefusal, CheckpointRefusal)):
                    raise message.error()
            raise death

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
            self._wire.close()
            self._child.end(self._grace_s)

    def forget(self) -> None:
        """Closes this process's copy of the wire; for a process that was forked off and to which the child does not belong."""
        self._closed = True
        self._wire.close()

    def _next(self) -> WorkerMessage | None:
        return self._late.popleft() if self._late else self._take()

    def _take(self) -> WorkerMessage | None:
        """Decode the next message, if one has arrived."""
        data = self._wire.receive()
        if data is None:
            return None
        try:
            message: WorkerMessage = self._decode(data)
        except msgspec.MsgspecError as exc:
            raise WorkerDiedError(f"the {self._name} sent what cannot be read: {exc}") from exc
        return message

    def _check_open(self) -> None:
        if self._closed:
            raise WorkerDiedError(f"the {self._name} was closed")

    def _fault(self, fault: WorkerFault, code: int | None) -> WorkerDiedError:
        message = f"the {self._name} met a fault: {fault.message}\n{fault.traceback}"
        return WorkerDiedError(message, exit_code=code, cause=DeathCause.FAULT, traceback=fault.traceback)


def _reason(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    memory = "; the system kills so when memory runs out" if code == -9 else ""
    return f"signal {-code}{memory}"


def _forget_all() -> None:
    for channel in list(_channels):
        channel.forget()


# A copy of the wire in a forked process would keep the child alive after its parent, and closing it would kill the child.
os.register_at_fork(after_in_child=_forget_all)

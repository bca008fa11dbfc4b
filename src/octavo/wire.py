"""Messages over one end of a socket pair: four bytes of length, then that many bytes.

A pair needs no name in any file system, so nothing can take it away, nobody else can connect to it, and nothing of it is
left behind. What was written before a process died can still be read after.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections import deque

_LENGTH = struct.Struct("<I")
_READ = 2**18
"""Bytes asked for at once."""


class Wire:
    """One end of a pair of connected stream sockets; for one thread at a time.

    Args:
        end: the socket; it is closed with this, and never blocks.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._poll = select.poll()
        self._events = 0
        self._unsent: deque[memoryview] = deque()
        self._read = bytearray()
        self._ended = False

    @property
    def ended(self) -> bool:
        """The other end is closed; messages that came before may still be there."""
        return self._ended

    def send(self, message: bytes) -> None:
        """Queue `message`, and write what the other end has room for now; `wait` and `flush` write the rest."""
        self._unsent.append(memoryview(_LENGTH.pack(len(message)) + message))
        self._write()

    def receive(self) -> bytes | None:
        """Return the next whole message, or None if none has arrived."""
        if (message := self._take()) is None and not self._ended:
            self._fill()
            message = self._take()
        return message

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until something arrives or the other end closes; False after `timeout_s` seconds (None: for ever)."""
        if self._ended or self._buffered():
            return True
        events = select.POLLIN | (select.POLLOUT if self._unsent else 0)
        if events != self._events:
            self._poll.register(self._end, events)
            self._events = events
        ready = self._poll.poll(None if timeout_s is None else max(0.0, 1000 * timeout_s))
        if not ready:
            return False
        if ready[0][1] & select.POLLOUT:
            self._write()
        return bool(ready[0][1] & ~select.POLLOUT)

    def read(self) -> bytes:
        """Wait for the next message and return it.

        Raises:
            EOFError: the other end is closed.
        """
        while (message := self.receive()) is None:
            if self._ended:
                raise EOFError("the other end of the wire is closed")
            self.wait(None)
        return message

    def flush(self) -> None:
        """Wait until all that was sent is written, or the other end is closed."""
        while self._unsent:
            waiting = select.poll()
            waiting.register(self._end, select.POLLOUT)
            waiting.poll()
            self._write()

    def await_end(self) -> None:
        """Wait until the other end is closed, from a thread of its own: reads nothing."""
        waiting = select.poll()
        waiting.register(self._end, select.POLLRDHUP)
        while not waiting.poll():
            pass

    def close(self) -> None:
        """Close this end; safe to call twice."""
        self._ended = True
        self._unsent.clear()
        self._end.close()

    def _write(self) -> None:
        while self._unsent:
            part = self._unsent[0]
            try:
                written = self._end.send(part, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:  # nobody reads any more: the end of what can be read says so
                self._unsent.clear()
                return
            if written == len(part):
                self._unsent.popleft()
            else:
                self._unsent[0] = part[written:]

    def _fill(self) -> None:
        while True:
            try:
                data = self._end.recv(_READ)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._ended = True
                return
            self._read += data
            if len(data) < _READ:
                return

    def _buffered(self) -> bool:
        """Whether a whole message is here."""
        return len(self._read) >= _LENGTH.size and len(self._read) >= _LENGTH.size + _LENGTH.unpack_from(self._read)[0]

    def _take(self) -> bytes | None:
        if not self._buffered():
            return None
        end = _LENGTH.size + int(_LENGTH.unpack_from(self._read)[0])
        with memoryview(self._read) as read:  # or it would be copied twice
            message = bytes(read[_LENGTH.size : end])
        del self._read[:end]
        return message


def standard_input() -> Wire:
    """Take over this process's standard input, which must be a socket; what reads it from then on finds it empty."""
    end = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return Wire(end)

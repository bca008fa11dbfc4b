"""A process that reads large bodies, so that the server's own interpreter is never held by one.

`python -m octavo.server.body_process FD` is the other end: it gets a `BodyReader` and then bodies over a socket, and
answers each with a `Reading`. Both ends run the same code, and nobody else can reach the socket.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from octavo.errors import OverloadedError, RequestError
from octavo.server.body import BodyReader, Preparable, Reading
from octavo.server.errors import InternalError
from octavo.server.heap import map_large_blocks
from octavo.server.json_pieces import PIECE_BYTES

log = logging.getLogger(__name__)

T = TypeVar("T")

START_S = 60.0
"""How long the process may take to import what it needs and to load the tokenizer."""
READ_S = 300.0
"""How long it may take for one body, so that those behind it do not wait for ever."""
NICENESS = 10
"""Large bodies come last when processor cores are scarce."""


class BodyProcess:
    """One such process, started for the first body; used by one thread at a time, but closed by any."""

    def __init__(self, reader: BodyReader) -> None:
        self._reader = reader
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The process's id, if one runs."""
        return None if self._child is None else self._child.pid

    def read(self, model: type[Preparable[T]], raw: bytes) -> Reading[T]:
        """Does what `BodyReader.read` does, in the process. If it is killed meanwhile, another one reads the body again, once.

        Raises:
            OverloadedError: that ended too, or cannot be started; the next body gets another one.
        """
        try:
            return self._read(model, raw)
        except OverloadedError:
            if self._closed:
                raise
            return self._read(model, raw)

    def _read(self, model: type[Preparable[T]], raw: bytes) -> Reading[T]:
        try:
            connection = self._connection or self._start()
            connection.send(model)
            connection.send_bytes(raw)
            if not connection.poll(READ_S):
                self._end()
                raise RequestError(f"the body could not be read within {READ_S:.0f} s: send less in a call")
            return _receive(connection)
        except (OSError, EOFError) as exc:
            code = self._end()
            raise OverloadedError(f"the process that reads large bodies ended ({code}): {exc!r}") from exc

    def close(self) -> None:
        """Kill the process; what it reads is lost. Safe to call twice."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.kill()
                self._child.wait()

    def _start(self) -> Connection:
        ours, theirs = multiprocessing.Pipe()
        with self._lock, theirs:
            if self._closed:
                raise EOFError("the server is closing")
            command = [sys.executable, "-P", "-m", "octavo.server.body_process", str(theirs.fileno())]
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        self._connection = ours
        ours.send(self._reader)
        if not ours.poll(START_S):
            raise TimeoutError(f"it did not start within {START_S:.0f} s")
        ours.recv()
        return ours

    def _end(self) -> int | None:
        """Kill the process if it still runs; its exit code."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        with self._lock:
            child, self._child = self._child, None
        if child is None:
            return None
        child.kill()
        return child.wait()


def _receive(connection: Connection) -> Reading[Any]:
    """A reading; an answer that is already written follows in pieces, each of which is received in a moment."""
    reading: Reading[Any]
    reading, num_pieces = connection.recv()
    if num_pieces is not None:
        reading.result = [connection.recv_bytes() for _ in range(num_pieces)]
    return reading


def _send(connection: Connection, reading: Reading[Any]) -> None:
    pieces = reading.result
    if not isinstance(pieces, list):
        connection.send((reading, None))
        return
    connection.send((dataclasses.replace(reading, result=None), len(pieces)))
    for piece in pieces:
        assert len(piece) <= 2 * PIECE_BYTES
        connection.send_bytes(piece)


def _serve(connection: Connection) -> None:
    """Answer bodies until the server closes its end."""
    reader: BodyReader = connection.recv()
    gc.disable()  # a body is a tree, which needs no collector, and millions of objects make each collection long
    connection.send(None)
    while True:
        model = connection.recv()
        raw = connection.recv_bytes()
        try:
            reading = reader.read(model, raw)
        except Exception:
            log.exception("a body could not be read")
            reading = Reading(error=InternalError())
        _send(connection, reading)
        del raw, reading
        gc.collect()


def _exit_with(connection: Connection) -> None:
    """End this process as soon as the server has closed its end, even in the middle of a body."""
    poll = select.poll()
    poll.register(connection.fileno(), 0)
    poll.poll()
    os._exit(0)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which lets running requests finish
    os.nice(NICENESS)
    map_large_blocks()
    connection = Connection(int(sys.argv[1]))
    threading.Thread(target=_exit_with, args=[connection], daemon=True).start()
    _serve(connection)


if __name__ == "__main__":
    main()

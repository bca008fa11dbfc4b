"""A server in a process of its own, for as long as a benchmark asks it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

HOST = "127.0.0.1"
LAST_LINES = 60
"""Of the log, told when something fails."""
END_S = 30.0
POLL_S = 0.2

T = TypeVar("T")


class ServerEndedError(Exception):
    """The server ended by itself; says with which code."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs `command` and writes to `log`; it is ended as a user ends it, and what is left of its group killed.

    When the block raises, the last lines of `log` go to stderr. SIGTERM raises SystemExit in the block, so that no server outlives it.
    """
    with log.open("wb") as sink:
        server = subprocess.Popen(command, env=env, stdout=sink, stderr=subprocess.STDOUT, process_group=0)
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield server
    except BaseException:
        print(f"{log}:\n{last_lines(log)}", file=sys.stderr, flush=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(END_S)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


async def while_runs(server: subprocess.Popen[bytes], work: Awaitable[T]) -> T:
    """What `work` gives.

    Raises:
        ServerEndedError: the server ends before it is done.
    """
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=POLL_S))[0]:
            if (code := server.poll()) is not None:
                raise ServerEndedError(f"the server ended with code {code}")
    finally:
        task.cancel()
    return await task


def last_lines(log: Path) -> str:
    """The end of `log`."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])


def _leave(number: int, frame: object) -> None:
    sys.exit(128 + number)

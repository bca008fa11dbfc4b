"""`python -m warm.template`, with a socket as standard input: imports what Octavo's processes need, then forks them.

Each comes as an order: a message, and the descriptors that it is to have. It becomes a child of whoever ordered it, has the
command line that it would have, and then runs as `python -m MODULE ...`, `python -c PROGRAM ...` or `python FILE ...` would.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import os
import runpy
import socket
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import msgspec

from warm.client import Client, install

PRELOADED = (
    "octavo.worker.process",
    "octavo.worker.start",
    "octavo.worker.shared_weights.weights",
    "octavo.startup",
    "octavo.server.run",
    "octavo.cli.main",
)
START_NONE = ("octavo.worker", "octavo.worker.keeper")
"""Modules that start no processes."""
ROOM = 8192
"""Bytes of our own command line, which has those of the children written over it."""
MOST_DESCRIPTORS = 16


class Order(msgspec.Struct):
    """A process to be."""

    words: list[str]
    """Of its command line, after the interpreter."""
    environment: dict[str, str]
    folder: str
    numbers: list[int]
    """Of the descriptors that come with this: standard input, output and error, and what else it is to have."""
    session: bool
    """It gets one of its own."""


def main() -> None:
    with contextlib.suppress(ImportError):
        for name in PRELOADED:
            importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads cannot be forked"
    gc.collect()
    gc.freeze()
    line = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    order, descriptors = await_order(line)
    if not any(name in order.words for name in START_NONE):
        start_another(line, descriptors)
    line.close()
    begin(order, descriptors)


def await_order(line: socket.socket) -> tuple[Order, list[int]]:
    """Fork at each order; returns in the children alone, and ends this process with the other end of `line`."""
    while True:
        message, descriptors = receive(line)
        if not message:
            os._exit(0)
        told, tell = os.pipe()
        between = os.fork()
        if not between:
            # This one ends at once, so that its own child gets another parent: whoever asks to be that of orphans.
            if child := os.fork():
                os.write(tell, b"%d" % child)
                os._exit(0)
            os.close(told)
            os.close(tell)
            return msgspec.msgpack.decode(message, type=Order), descriptors
        os.close(tell)
        os.waitpid(between, 0)
        line.sendall(os.read(told, 32))
        for descriptor in (told, *descriptors):
            os.close(descriptor)


def receive(line: socket.socket) -> tuple[bytes, list[int]]:
    head, descriptors, _, _ = socket.recv_fds(line, 4, MOST_DESCRIPTORS)
    if not head:
        return b"", []
    size, message = int.from_bytes(head, "little"), b""
    while len(message) < size:
        message += line.recv(size - len(message))
    return message, list(array.array("i", descriptors))


def start_another(line: socket.socket, descriptors: Sequence[int]) -> None:
    """From now on the processes of this one are forked as well: by a twin of it, which holds nothing of it open."""
    ours, theirs = socket.socketpair()
    twin = os.fork()
    if not twin:
        for each in (ours, line):
            each.close()
        for descriptor in descriptors:
            os.close(descriptor)
        write_command_line([sys.executable, "-m", "warm.template"])
        order, own = await_order(theirs)
        theirs.close()
        begin(order, own)
    theirs.close()
    install(Client(ours, twin))


def begin(order: Order, descriptors: Sequence[int]) -> NoReturn:
    """Run what is ordered, in this process."""
    if order.session:
        os.setsid()
    place(descriptors, order.numbers)
    os.environ.clear()
    os.environ.update(order.environment)
    os.chdir(order.folder)
    write_command_line([sys.executable, *order.words])
    warnings._processoptions(  # type: ignore[attr-defined]
        [each for each in order.environment.get("PYTHONWARNINGS", "").split(",") if each]
    )
    sys.path[:0] = [each for each in order.environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through="PYTHONUNBUFFERED" in order.environment)  # type: ignore[union-attr]
    try:
        run([word for word in order.words if word != "-P"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as exc:
        sys.excepthook(type(exc), exc, exc.__traceback__)
        code = 1
    # As at the end of any program, but for the taking apart of all that was imported, which takes most of the time.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def place(descriptors: Sequence[int], numbers: Sequence[int]) -> None:
    """Give them their numbers; no other is to lie there."""
    high = [fcntl.fcntl(each, fcntl.F_DUPFD, 100 + max(numbers)) for each in descriptors]
    for each in descriptors:
        os.close(each)
    for each, number in zip(high, numbers, strict=True):
        os.dup2(each, number)
        os.close(each)


def run(words: Sequence[str]) -> None:
    match words:
        case ["-m", name, *arguments]:
            sys.argv = [name, *arguments]
            sys.modules.pop(name, None)
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        case ["-c", program, *arguments]:
            sys.argv = ["-c", *arguments]
            module = sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(program, "<string>", "exec"), vars(module))
        case [path, *arguments]:
            sys.argv = [path, *arguments]
            runpy.run_path(path, run_name="__main__")


def write_command_line(words: Sequence[str]) -> None:
    """What others read in /proc."""
    start, end = (int(each) for each in Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    text = b"\0".join(word.encode() for word in words)[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


if __name__ == "__main__":
    main()

"""The worker as a process: messages from a socket, one step after the other. `engine/process.py` is the other end."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec
import zmq

from octavo.errors import CheckpointError, ConfigError
from octavo.messages import (
    CheckpointRefusal,
    ConfigRefusal,
    StepPlan,
    WorkerConfig,
    WorkerFault,
    WorkerMessage,
    WorkerReady,
)
from octavo.worker.runner import Launched, Runner

Start = Callable[[WorkerConfig], tuple[Runner, WorkerReady]]

FAULT = 1
"""Exit code after a fault was reported."""
ORPHANED = 3
"""Exit code of a worker whose parent is gone."""
MOST_LAUNCHED = 2
"""Steps that the device has been given: it goes on with the second while the host reads the first."""
PAUSE_S = 5e-5
"""Between two looks for a plan or the end of a step: short beside a step, which takes milliseconds."""
LINGER_MS = 1000
"""How long a fault may take to reach the parent."""


def serve(address: str, start: Start) -> NoReturn:
    """Load what the first message says, then answer plans; see `live`."""

    def work(socket: zmq.Socket[bytes]) -> None:
        config = msgspec.msgpack.decode(socket.recv(), type=WorkerConfig)
        runner, ready = start(config)
        send(socket, ready)
        decode = msgspec.msgpack.Decoder(StepPlan).decode
        steps: deque[Launched] = deque()
        while True:
            if not steps or (len(steps) < MOST_LAUNCHED and _plan_comes_first(socket, steps[-1])):
                steps.append(runner.launch(decode(socket.recv())))
            else:
                send(socket, steps.popleft().result())

    live(address, work)


def _plan_comes_first(socket: zmq.Socket[bytes], step: Launched) -> bool:
    """Wait for the next plan or the end of `step`; whether it is the plan."""
    while not step.done:
        if socket.poll(0):
            return True
        time.sleep(PAUSE_S)
    return False


def live(address: str, work: Callable[[zmq.Socket[bytes]], None]) -> NoReturn:
    """Do `work`, which does not return, on a socket to the engine until killed; after a fault, exit with code 1.

    SIGTERM ends the process at once: it holds nothing that is not a cache. SIGINT is the parent's to handle. SIGUSR1
    prints the main thread's stack to standard error, as does a crash such as SIGSEGV.
    """
    faulthandler.enable(all_threads=False)
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(address,), daemon=True).start()
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.connect(address)
        try:
            work(socket)
        except Exception as exc:
            send(socket, _report(exc))
            # Here, where the exception still holds what its frames held: on a device that has failed torch aborts the
            # process when a tensor is freed. And not through the interpreter's end, which takes half a second with torch.
            socket.close()
            context.term()
            sys.stderr.flush()
            os._exit(FAULT)
    raise AssertionError("work does not return")


def _report(error: Exception) -> WorkerMessage:
    """What the parent is told of the error that ends this process."""
    match error:
        case ConfigError():
            return ConfigRefusal(error.setting, error.reason)
        case CheckpointError():
            return CheckpointRefusal(error.reason, error.file, error.tensor)
    return WorkerFault(message=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())


def send(socket: zmq.Socket[bytes], message: WorkerMessage) -> None:
    """Queue `message` for the engine."""
    socket.send(msgspec.msgpack.encode(message))


def _exit_with_parent(address: str) -> None:
    """Exit when standard input ends: the parent holds its other end open as long as it lives.

    The socket and its directory, which the parent could not remove, go too.

    PR_SET_PDEATHSIG would fire as soon as the thread that started the worker ends, though the parent lives on.
    """
    while os.read(0, 1024):
        pass
    socket = Path(address.removeprefix("ipc://"))
    with contextlib.suppress(OSError):
        socket.unlink()
        socket.parent.rmdir()
    os._exit(ORPHANED)

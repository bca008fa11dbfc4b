"""The worker as a process: messages from a wire, one step after the other. `engine/processes/worker_process.py` is the other end."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import NoReturn

import msgspec

from octavo.errors import CheckpointError, ConfigError
from octavo.logs import log_as_child
from octavo.messages import (
    Begin,
    CheckpointRefusal,
    ConfigRefusal,
    StepMasks,
    StepPlan,
    Waiting,
    WorkerConfig,
    WorkerFault,
    WorkerMessage,
    WorkerReady,
)
from octavo.wire import Wire, standard_input
from octavo.worker.launched import Launched
from octavo.worker.runner import Runner

log = logging.getLogger(__name__)

Start = Callable[[Begin], tuple[Runner, WorkerReady]]
"""Takes the device's memory and warms up."""
Prepare = Callable[[WorkerConfig], Start]
"""Does all that needs no more memory than the worker before has left, and no weights that are still being loaded; the second part comes
when that worker has ended, and weights are there."""

FAULT = 1
"""Exit code after a fault was reported."""
ORPHANED = 3
"""Exit code of a worker whose parent is gone."""
MOST_LAUNCHED = 2
"""Steps that the device has been given: it goes on with the second while the host reads the first."""
IDLE_S = 0.5
"""Without a plan for as long, the worker does what makes later steps faster, a fraction of a second at a time, until a plan comes."""
PAUSE_S = 5e-5
"""Between two looks for a plan or the end of a step: short beside a step, which takes milliseconds."""


def serve(prepare: Prepare) -> NoReturn:
    """Load what the first message says, then answer plans; see `live`."""

    def work(wire: Wire) -> None:
        send(wire, Waiting(configured=False))
        config = msgspec.msgpack.decode(wire.read(), type=WorkerConfig)
        log_as_child("worker", config.logging_level)
        start = prepare(config)
        send(wire, Waiting(configured=True))
        log.debug("waits for its turn")
        begin = msgspec.msgpack.decode(wire.read(), type=Begin)
        log.debug(
            "its turn: %s", "a worker like it has run before" if begin.has_predecessor else "the first of its kind"
        )
        runner, ready = start(begin)
        send(wire, ready)
        log.debug("ready for the first step")
        answer_plans(wire, runner)

    live(work)


def answer_plans(wire: Wire, runner: Runner) -> NoReturn:
    """Answer plans in their order. Without one for `IDLE_S`, do the runner's idle work part by part, looking for a plan before each,
    until there is none left.

    Raises:
        EOFError: the other end of the wire is closed.
    """
    decode = msgspec.msgpack.Decoder(StepPlan | StepMasks).decode
    steps: deque[Launched] = deque()
    idle: float | None = IDLE_S
    while True:
        if not steps and not wire.wait(idle):
            idle = 0.0 if runner.idle_work() else None
            continue
        if steps and (len(steps) == MOST_LAUNCHED or not _message_comes_first(wire, steps[-1])):
            send(wire, steps.popleft().result())
            runner.draft()  # the masks are made of that result
            continue
        match decode(wire.read()):
            case StepPlan() as plan:
                idle = IDLE_S if idle is not None else None
                steps.append(runner.launch(plan))
                if len(steps) == 1:
                    runner.draft()
            case StepMasks() as masks:
                runner.sample(masks)


def _message_comes_first(wire: Wire, step: Launched) -> bool:
    """Wait for the next plan or masks, or the end of `step`; whether it is a message."""
    if not step.is_sampled:
        return wire.wait(None)
    while not step.done:
        if wire.wait(0):
            return True
        time.sleep(PAUSE_S)
    return False


def live(work: Callable[[Wire], None]) -> NoReturn:
    """Do `work`, which does not return, on the wire to the engine until killed; after a fault, exit with code 1.

    SIGTERM ends the process at once: it holds nothing that is not a cache. SIGINT is the parent's to handle. SIGUSR1
    prints the main thread's stack to standard error, as does a crash such as SIGSEGV.
    """
    faulthandler.enable(all_threads=False)
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wire = standard_input()
    threading.Thread(target=_exit_with_parent, args=(wire,), daemon=True).start()
    try:
        work(wire)
    except EOFError:
        os._exit(ORPHANED)
    except Exception as exc:
        send(wire, _report(exc))
        # Here, where the exception still holds what its frames held: on a device that has failed torch aborts the
        # process when a tensor is freed. And not through the interpreter's end, which takes half a second with torch.
        sys.stderr.flush()
        os._exit(FAULT)
    raise AssertionError("work does not return")


def _report(error: Exception) -> WorkerMessage:
    """Makes the message that tells the parent of the error that ends this process."""
    match error:
        case ConfigError():
            return ConfigRefusal(error.setting, error.reason)
        case CheckpointError():
            return CheckpointRefusal(error.reason, error.file, error.tensor)
    return WorkerFault(message=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())


def send(wire: Wire, message: WorkerMessage) -> None:
    """Write `message` for the engine."""
    wire.send(msgspec.msgpack.encode(message))
    wire.flush()


def _exit_with_parent(wire: Wire) -> None:
    """Exit when the engine's end of the wire closes: the parent holds it open as long as it lives.

    PR_SET_PDEATHSIG would fire as soon as the thread that started the worker ends, though the parent lives on.
    """
    wire.await_end()
    os._exit(ORPHANED)

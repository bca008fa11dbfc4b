"""Faults on demand, for tests and for those who want to see a recovery."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable

import torch

from octavo.messages import Fault, FaultKind

EXIT_CODE = 17
"""Of a worker that was told to exit."""


SENT_S = 0.02
"""After which the result of the step before has left the process, so that the fault hits its own step."""


class InjectedError(Exception):
    """An error that was asked for."""


def commit(faults: Iterable[Fault], device: torch.device) -> set[int]:
    """Do what `faults` say to this process and its device; returns the slots whose numbers must become NaN.

    Raises:
        InjectedError: as a `RAISE` asks.
    """
    spoiled: set[int] = set()
    for fault in faults:
        if fault.kind is FaultKind.NAN:
            spoiled.update(fault.slots)
        else:
            _end(fault.kind, device)
    return spoiled


def _end(kind: FaultKind, device: torch.device) -> None:
    match kind:
        case FaultKind.EXIT:
            time.sleep(SENT_S)
            os._exit(EXIT_CODE)
        case FaultKind.KILL:
            time.sleep(SENT_S)
            os.kill(os.getpid(), signal.SIGKILL)
        case FaultKind.SEGFAULT:
            time.sleep(SENT_S)
            os.kill(os.getpid(), signal.SIGSEGV)
        case FaultKind.HANG:
            while True:
                time.sleep(3600)
        case FaultKind.RAISE:
            raise InjectedError("this error was asked for by inject_fault")
        case FaultKind.OUT_OF_BOUNDS:
            # Triton chooses at import between its compiler and its interpreter; others need neither.
            from octavo.ops.wild_write import wild_write

            wild_write(device)

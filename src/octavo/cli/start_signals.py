"""SIGTERM and SIGINT while a server starts: it ends as one that is stopped later, and leaves no process behind."""

from __future__ import annotations

import _thread
import logging
import os
import signal
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

from octavo.config import Settings

if TYPE_CHECKING:
    from octavo.engine.processes.worker_source import WorkerSource
    from octavo.messages import WorkerConfig
    from octavo.startup import OpenWorkers

log = logging.getLogger(__name__)

STOPPED = 0
"""Exit code, as of a server that is stopped later."""
END_S = 10.0
"""Most seconds from the signal to the end: the threads that download a model would be waited for."""


class StartSignals:
    """As a context: the first of these signals ends the start, by SystemExit.

    It is raised where the start is, but not while processes are started, of which one might be left behind: then their
    source is abandoned, which makes the start fail soon. Whatever it fails with, the process has been stopped.
    """

    def __init__(self) -> None:
        self._came = False
        self._source: WorkerSource | None = None
        """It is starting a worker."""

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._leave_if_stopped()

    def opening(self, open_workers: OpenWorkers) -> OpenWorkers:
        """`open_workers`, after which processes are started."""

        def open_source(config: WorkerConfig, settings: Settings) -> WorkerSource:
            self._source = open_workers(config, settings)
            return self._source

        return open_source

    def on_started(self) -> None:
        """No process is being started any more, and somebody closes the source."""
        self._source = None
        self._leave_if_stopped()

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self._came:
            return
        self._came = True
        log.info("stopped by %s during the start", signal.Signals(number).name)
        # Not `threading.Thread`: the signal may have interrupted the start of another one, with its lock held.
        _thread.start_new_thread(_end_late, ())
        if self._source is None:
            self._leave_if_stopped()
        else:
            self._source.abandon()

    def _leave_if_stopped(self) -> None:
        if self._came:
            raise SystemExit(STOPPED)


def _end_late() -> None:
    time.sleep(END_S)
    os._exit(STOPPED)

"""Processes that start in a fraction of a second: forked from one that has imported what workers and keepers need."""

from __future__ import annotations

import io
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from types import SimpleNamespace

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["__main__", "octavo.worker.process", "octavo.worker.start", "octavo.worker.shared_weights.weights", __name__]
)


class ForkedPopen:
    """Stands in for `subprocess.Popen` where it runs `python -m MODULE ...` with pipes."""

    def __init__(self, command: list[str], *, stdin: int, **_options: object) -> None:
        module, *arguments = command[command.index("-m") + 1 :]
        input_end = Connection(os.dup(stdin))
        self._output, output_end = CONTEXT.Pipe(duplex=False)
        self._process = CONTEXT.Process(target=_run, args=(module, arguments, input_end, output_end), daemon=True)
        self._process.start()
        input_end.close()
        output_end.close()
        self.stdout = io.FileIO(os.dup(self._output.fileno()))
        self._output.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


SUBPROCESS = SimpleNamespace(
    Popen=ForkedPopen, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT, TimeoutExpired=subprocess.TimeoutExpired
)
"""For `engine.child`, instead of the module of that name."""


def _run(module: str, arguments: list[str], input_end: Connection, output_end: Connection) -> None:
    """What `python -m module` does, with pipes to the parent."""
    os.dup2(input_end.fileno(), 0)
    for standard in (1, 2):
        os.dup2(output_end.fileno(), standard)
    input_end.close()
    output_end.close()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")

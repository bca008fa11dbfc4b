"""Processes that start in a fraction of a second: forked from one that has imported what workers and keepers need."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from multiprocessing.connection import Connection

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["__main__", "octavo.worker.process", "octavo.worker.start", "octavo.worker.weights", __name__]
)


class ForkedChild:
    """Stands in for `engine.child.Child`; it prints to our standard error, and nothing is kept."""

    def __init__(self, command: list[str]) -> None:
        reader, self._writer = CONTEXT.Pipe(duplex=False)
        module, *arguments = command[command.index("-m") + 1 :]
        self._process = CONTEXT.Process(target=_run, args=(module, arguments, reader), daemon=True)
        self._process.start()
        reader.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def exit_code(self, timeout_s: float) -> int | None:
        self._process.join(timeout_s)
        return self._process.exitcode

    def last_words(self) -> str:
        return ""

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        self._writer.close()
        self._process.kill()
        self._process.join()


def _run(module: str, arguments: list[str], reader: Connection) -> None:
    """What `python -m module` does, with the pipe to the parent as standard input."""
    os.dup2(reader.fileno(), 0)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")

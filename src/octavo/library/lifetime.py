"""How long an engine with its workers lives: until its owner is closed, collected, or the interpreter exits."""

from __future__ import annotations

import _thread
import os
import threading
import weakref
from collections.abc import Callable

from octavo.errors import ClosedError

COLLECTED_S = 5.0
"""How long the garbage collector is held up while what it has found is ended."""


class Lifetime:
    """Calls `end` once, in the process that made it: `owner` is closed, or nobody can reach it any more.

    A process that was forked off has no part in it: there, nothing is ended, and nothing can be used.

    Args:
        owner: what the user holds.
        end: ends workers and threads; must not refer to `owner`.
        in_thread: an owner that is collected is ended in a thread of its own, as the collector may run in one that has
            to end.
    """

    def __init__(self, owner: object, end: Callable[[], None], *, in_thread: bool = False) -> None:
        self._kind = type(owner).__name__
        self._end = end
        self._pid = os.getpid()
        self._ending = threading.RLock()
        self._over = False
        weakref.finalize(owner, self._end_in_thread if in_thread else self.end)

    @property
    def over(self) -> bool:
        """It has ended, or began in another process."""
        return self._over or os.getpid() != self._pid

    def check(self) -> None:
        """Check that what lives so long may be used.

        Raises:
            ClosedError: it is over.
        """
        if os.getpid() != self._pid:
            raise ClosedError(
                f"this {self._kind} belongs to process {self._pid}, which forked: make one in this process"
            )
        if self._over:
            raise ClosedError(f"this {self._kind} was closed; make another one")

    def end(self) -> None:
        """End it; safe to call twice, and from any thread: when it returns, all is ended."""
        if os.getpid() != self._pid:
            return
        self._over = True
        with self._ending:
            end, self._end = self._end, _nothing
            end()

    def _end_in_thread(self) -> None:
        if os.getpid() != self._pid:
            return
        ended = _thread.allocate_lock()
        ended.acquire()

        def run() -> None:
            try:
                self.end()
            finally:
                ended.release()

        # Not `threading.Thread`: the collector may have interrupted the start of another one, with its lock held.
        _thread.start_new_thread(run, ())
        ended.acquire(timeout=COLLECTED_S)


def _nothing() -> None:
    pass

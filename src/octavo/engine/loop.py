"""The thread that owns the engine, and the door to it for all other threads."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial

from octavo.engine.engine import Engine
from octavo.engine.recovery.supervisor import AbandonedError
from octavo.engine.request import Request
from octavo.engine.sequence import Sequence
from octavo.engine.statistics import EngineStatus
from octavo.engine.update import Update
from octavo.errors import OverloadedError, WorkerDiedError

logger = logging.getLogger(__name__)

IDLE_LOOK_S = 0.2
"""With nothing to do: how often to look whether the worker is alive."""
BUSY_LOOK_S = 0.02
"""With a step in flight: how often to look for new requests and aborts."""


class EngineLoop:
    """Steps `engine` in a thread of its own and gives all updates to `deliver`, in that thread.

    `deliver` must return soon and not raise. Every method may be called from any thread.
    """

    def __init__(self, engine: Engine, deliver: Callable[[list[Update]], None]) -> None:
        self._engine = engine
        self._deliver = deliver
        self._changed = threading.Condition()
        self._calls: deque[Callable[[], None]] = deque()
        self._arriving: dict[str, Sequence] = {}
        """Accepted, but not yet enqueued by the thread."""
        self._quiet = True
        self._draining = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Accept `request`: from here on it gets updates, the last of them with a finish reason.

        Raises:
            RequestError: it can never be served; `param` names the field.
            OverloadedError: the queue is full, or the engine is draining.
            WorkerDiedError: the worker is gone.
        """
        sequence = self._engine.accept(request)
        with self._changed:
            if self._draining or self._stopping:
                raise OverloadedError("the server is shutting down and takes no new requests")
            self._engine.check_room(sequence, self._arriving)
            self._arriving[sequence.request_id] = sequence
            self._call(partial(self._engine.enqueue, sequence))

    def abort(self, request_ids: Iterable[str]) -> None:
        """End requests at once; ids that are not alive are passed over."""
        with self._changed:
            for request_id in request_ids:
                self._call(partial(self._engine.abort, request_id))

    def status(self) -> EngineStatus:
        """A snapshot of the engine."""
        return self._engine.status()

    def reset_prefix_cache(self) -> bool:
        """Empty the prefix cache; False, and nothing done, while requests are alive or after `stop`."""
        done: Future[bool] = Future()
        with self._changed:
            if self._stopping:
                return False
            self._call(lambda: done.set_result(self._engine.reset_prefix_cache()))
        return done.result()

    def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for the others to end; False if some are left after `timeout_s` seconds."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: self._quiet, timeout_s)

    def stop(self) -> None:
        """End the thread, soon also if it waits for a worker to start; requests still alive are aborted.

        Safe to call twice. The worker's link stays open.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._engine.abandon()
        if self._thread.ident is not None:
            self._thread.join()

    def _call(self, call: Callable[[], None]) -> None:
        """Have the thread make `call`; the lock is held."""
        self._calls.append(call)
        self._quiet = False
        self._changed.notify_all()

    def _run(self) -> None:
        going = True
        while going:
            try:
                going = self._turn()
            except AbandonedError:
                going = False
            except Exception as exc:
                logger.exception("the engine met an internal error and ends all requests")
                self._engine.die(WorkerDiedError(f"the engine met an internal error: {exc!r}"))
        for request_id in list(self._engine.sequences):
            self._engine.abort(request_id)
        self._hand_out(self._engine.take_updates())
        self._engine.close()

    def _turn(self) -> bool:
        """Make the calls that came in, then one step; False once stopped."""
        with self._changed:
            if not (self._calls or self._stopping or self._engine.has_work):
                self._changed.wait(IDLE_LOOK_S)
            while self._calls:
                self._calls.popleft()()
            self._arriving.clear()
            if self._stopping:
                return False
        self._hand_out(self._engine.step(BUSY_LOOK_S))
        return True

    def _hand_out(self, updates: list[Update]) -> None:
        if updates:
            self._deliver(updates)
        with self._changed:
            self._quiet = not (self._calls or self._engine.has_work)
            if self._quiet:
                self._changed.notify_all()

"""Carries updates from the engine's thread to the coroutines that wait for them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable

from octavo.engine.loop import EngineLoop
from octavo.engine.request import Request
from octavo.engine.update import Update

TURN_IDS = 1 << 15
"""Ids submitted before other coroutines get a turn: of prompts, biases and stops."""
REQUEST_IDS = 1 << 10
"""A request counts as many more."""
TURN_UPDATES = 256
"""Updates taken before other coroutines get a turn."""


class ClientGone(Exception):
    """The client closed its connection; there is nobody to answer."""


class Dispatcher:
    """One for a server. `deliver` is for the engine's thread, everything else for the event loop's."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams: dict[str, Stream] = {}
        self.busy_since_s = time.monotonic()
        """When the first of the requests came that somebody waits for, without a gap between them (time.monotonic)."""

    @property
    def num_streams(self) -> int:
        """Engine requests somebody waits for."""
        return len(self._streams)

    @property
    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """The one that coroutines run on, once it is known."""
        return self._loop

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say which event loop the coroutines run on; before the first request."""
        self._loop = loop

    def deliver(self, updates: list[Update]) -> None:
        """Hand over the news of a step: one wake-up of the event loop, whatever their number."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return  # the server is starting or gone: nobody waits
        loop.call_soon_threadsafe(self._spread, updates)

    async def open(self, engine: EngineLoop, requests: Iterable[Request]) -> Stream:
        """Submit `requests`, each as soon as it is made, all or none, and return the stream of their updates.

        Raises:
            RequestError, OverloadedError, WorkerDiedError: the engine refuses one of them.
        """
        stream = Stream(self, engine)
        if not self._streams:
            self.busy_since_s = time.monotonic()
        ids = 0
        try:
            for request in requests:
                self._streams[request.request_id] = stream
                stream.alive.add(request.request_id)
                engine.submit(request)
                ids += REQUEST_IDS + len(request.prompt_token_ids)
                ids += len(request.sampling.logit_bias) + len(request.sampling.stop_token_ids)
                if ids >= TURN_IDS:
                    ids = 0
                    await asyncio.sleep(0)
        except BaseException:
            stream.close()
            raise
        return stream

    def poke_idle(self, idle_s: float) -> None:
        """Wake streams that were silent for `idle_s` seconds, so that they can tell their clients they live."""
        limit = time.monotonic() - idle_s
        for stream in set(self._streams.values()):
            if stream.last_s <= limit:
                stream.wake()

    def forget(self, request_id: str) -> None:
        """Drop what still arrives for `request_id`."""
        self._streams.pop(request_id, None)

    def _spread(self, updates: list[Update]) -> None:
        streams = self._streams
        for update in updates:
            stream = streams.get(update.request_id)
            if stream is not None:
                stream.put(update)


class Stream:
    """Updates of the engine requests that belong to one HTTP request. A slow reader finds them together: what waits
    is bounded by the tokens the requests may make."""

    def __init__(self, dispatcher: Dispatcher, engine: EngineLoop) -> None:
        self.alive: set[str] = set()
        """Ids without a last update."""
        self.last_s = time.monotonic()
        """When something was last taken."""
        self._dispatcher = dispatcher
        self._engine = engine
        self._updates: deque[Update] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._poked = False
        self._gone = False
        self._crowded = False
        """More was there than the last call took."""

    def put(self, update: Update) -> None:
        self._updates.append(update)
        if update.finish_reason is not None:
            self.alive.discard(update.request_id)
            self._dispatcher.forget(update.request_id)
        self._release()

    def wake(self) -> None:
        """Make `take` return, with nothing if nothing is there."""
        self._poked = True
        self._release()

    def leave(self) -> None:
        """The client is gone: make `take` raise."""
        self._gone = True
        self._release()

    async def take(self) -> list[Update]:
        """The next updates, at most TURN_UPDATES; empty after `wake`.

        Raises:
            ClientGone: the client closed its connection.
        """
        if not (self._updates or self._poked or self._gone):
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        elif self._crowded:
            await asyncio.sleep(0)
        if self._gone:
            raise ClientGone
        self._poked = False
        self.last_s = time.monotonic()
        self._crowded = len(self._updates) > TURN_UPDATES
        return [self._updates.popleft() for _ in range(min(TURN_UPDATES, len(self._updates)))]

    def stop(self, request_id: str) -> None:
        """End one request; its further updates are dropped."""
        if request_id in self.alive:
            self.alive.discard(request_id)
            self._dispatcher.forget(request_id)
            self._engine.abort([request_id])

    def close(self) -> None:
        """End all requests that are still alive; safe to call twice."""
        alive, self.alive = self.alive, set()
        for request_id in alive:
            self._dispatcher.forget(request_id)
        if alive:
            self._engine.abort(list(alive))

    def _release(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

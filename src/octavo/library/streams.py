"""Carries updates from the engine's thread to the coroutines that wait for them, in whichever event loops they run."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Iterable

from octavo.engine.loop import EngineLoop
from octavo.engine.update import Update
from octavo.errors import RequestError
from octavo.library.job import Job


class Streams:
    """Holds the streams of one engine. `deliver` is for the engine's thread, everything else for any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_request: dict[str, Stream] = {}
        """By the id of the user's request."""
        self._by_answer: dict[str, Stream] = {}
        """By ids in the engine."""

    def deliver(self, updates: list[Update]) -> None:
        """Hand over the news of a step; what nobody waits for is dropped."""
        news: defaultdict[Stream, list[Update]] = defaultdict(list)
        for update in updates:
            if (stream := self._by_answer.get(update.request_id)) is not None:
                news[stream].append(update)
        for stream, its in news.items():
            stream.put(its)

    def open(self, job: Job, engine: EngineLoop) -> Stream:
        """Submit the requests of `job`, all or none; in the event loop that is to read its news.

        Raises:
            RequestError, OverloadedError, WorkerDiedError: the engine refuses one of them, or the id is in use.
        """
        stream = Stream(self, engine, job)
        with self._lock:
            if job.request_id in self._by_request or not self._by_answer.keys().isdisjoint(job.answer_ids):
                raise RequestError(f"request id {job.request_id!r} is in use", param="request_id")
            self._by_request[job.request_id] = stream
            self._by_answer.update(dict.fromkeys(job.answer_ids, stream))
        try:
            for request in job.requests:
                engine.submit(request)
        except BaseException:
            stream.close()
            raise
        return stream

    def abort(self, request_ids: Iterable[str]) -> None:
        """End requests of the user; ids that are not alive are passed over."""
        for request_id in request_ids:
            if (stream := self._by_request.get(request_id)) is not None:
                stream.abort()

    def forget(self, job: Job) -> None:
        """Drop what still arrives for `job`."""
        with self._lock:
            self._by_request.pop(job.request_id, None)
            for name in job.answer_ids:
                self._by_answer.pop(name, None)


class Stream:
    """The news of one request of the user. A slow reader finds them together."""

    def __init__(self, streams: Streams, engine: EngineLoop, job: Job) -> None:
        self._streams = streams
        self._engine = engine
        self._job = job
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._updates: deque[Update] = deque()

    def put(self, updates: Iterable[Update]) -> None:
        """Add news, in the engine's thread; if the event loop was closed, nobody will read them."""
        self._updates.extend(updates)
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:
            self.close()

    async def take(self) -> list[Update]:
        """Wait for news; return all of them."""
        await self._news.wait()
        self._news.clear()
        return [self._updates.popleft() for _ in range(len(self._updates))]

    def stop(self, answer: str) -> None:
        """End one answer, which needs no more tokens."""
        self._engine.abort([answer])

    def abort(self) -> None:
        """End all answers that have not ended; their ends are news."""
        self._engine.abort(self._job.answer_ids)

    def close(self) -> None:
        """End all answers that have not ended, and hear no more of them; safe to call twice."""
        self._streams.forget(self._job)
        if not self._job.finished:
            self.abort()

"""Reads bodies beside the event loop: in a thread, and large ones in a process of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from octavo.errors import OverloadedError
from octavo.server.body import BodyReader, Preparable, Reading
from octavo.server.body_process import BodyProcess

T = TypeVar("T")

LARGE_BYTES = 128 << 10
"""Up to here in a thread: the longest that it holds the interpreter's lock is some milliseconds (to parse the JSON)."""
HUGE_BYTES = 4 << 20
"""Up to here, which has room for a prompt of some 262,144 tokens, a body never waits for one that is larger."""
MAX_WAITING_BYTES = 512 << 20
"""Most bytes of bodies that wait for a process, or are read there."""


class BodyPool:
    """Reads bodies beside each other; close it in the end."""

    def __init__(self, reader: BodyReader) -> None:
        self._reader = reader
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="body")
        self._large, self._huge = _Lane(reader), _Lane(reader)

    async def read(self, model: type[Preparable[T]], raw: bytes) -> Reading[T]:
        """Does what `BodyReader.read` does, beside the event loop.

        Raises:
            OverloadedError: too much waits, or the process that was to read it has ended.
        """
        if len(raw) <= LARGE_BYTES:
            return await self.in_thread(lambda: self._reader.read(model, raw))
        return await (self._large if len(raw) <= HUGE_BYTES else self._huge).read(model, raw)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do `work`, no step of which may hold the interpreter's lock for long."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def pids(self) -> list[int]:
        """The process ids of the readers that run."""
        return [lane.process.pid for lane in (self._large, self._huge) if lane.process.pid is not None]

    def close(self) -> None:
        """End the threads and processes; what they read is lost."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for lane in (self._large, self._huge):
            lane.close()


class _Lane:
    """A process with the thread that speaks to it: bodies go through one after the other."""

    def __init__(self, reader: BodyReader) -> None:
        self.process = BodyProcess(reader)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bodies")
        self._waiting = 0

    async def read(self, model: type[Preparable[T]], raw: bytes) -> Reading[T]:
        if self._waiting and self._waiting + len(raw) > MAX_WAITING_BYTES:
            raise OverloadedError(f"{self._waiting} bytes of large bodies wait to be read", retry_after_s=10)
        self._waiting += len(raw)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self.process.read, model, raw)
        finally:
            self._waiting -= len(raw)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        self.process.close()

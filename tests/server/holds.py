"""How long a body holds up all others: what holds the event loop or the interpreter's lock, and for how much of a processor's time.

What is bounded is processor time, not time by the clock: a busy machine makes a hold longer, but does not add to what
the holder computes meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import threading
import time
from collections.abc import Iterator
from typing import Any

from server.harness import Running

MOST_CPU_S = 0.4
"""Of a hold, with the engine and its worker in this process too; what these bodies cost in all is several times as much, most of it in one call of a C extension."""
TRIES = 4
LIMITS: Any = {"max_model_len": 1 << 16, "num_blocks": 1 << 13}
MB = 500_000


class Holds:
    """The longest holds, in seconds of processor time, of the interpreter's lock and of the event loop."""

    def __init__(self) -> None:
        self.lock_s = 0.0
        self.loop_s = 0.0

    def watch_lock(self, until: threading.Event) -> None:
        """What this process computes while this thread, which wants next to nothing, cannot get the lock."""
        last_s = time.process_time()
        while not until.is_set():
            time.sleep(0.001)
            now_s = time.process_time()
            self.lock_s, last_s = max(self.lock_s, now_s - last_s), now_s

    async def watch_loop(self) -> None:
        """What the event loop's thread computes between two turns of this coroutine."""
        last_s = time.thread_time()
        while True:
            try:
                await asyncio.sleep(0.001)
            finally:  # the last hold may be that of the turn before this coroutine is cancelled
                now_s = time.thread_time()
                self.loop_s, last_s = max(self.loop_s, now_s - last_s), now_s


@contextlib.contextmanager
def watched(server: Running) -> Iterator[Holds]:
    """As in a process that serves and does nothing else, what is there at the beginning is left out of garbage collections."""
    gc.collect()
    gc.freeze()
    holds, end = Holds(), threading.Event()
    loop = server.context.dispatcher.event_loop
    assert loop is not None
    thread = threading.Thread(target=holds.watch_lock, args=[end])
    coroutine = asyncio.run_coroutine_threadsafe(holds.watch_loop(), loop)
    thread.start()
    try:
        yield holds
    finally:
        coroutine.cancel()
        end.set()
        thread.join()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()  # by then the coroutine has ended


def post(server: Running, path: str, body: bytes) -> tuple[int, int, bytes]:
    """Status, length and the first bytes of the answer, which is not parsed here: that too would hold the lock."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    first, size = b"", 0
    while chunk := answer.read(1 << 16):
        first, size = first or chunk, size + len(chunk)
    connection.close()
    return answer.status, size, first


def assert_holds_up_nobody(server: Running, path: str, body: bytes, status: int) -> None:
    """Assert that `body` is answered with `status`, and holds neither for long.

    One that holds something holds it each time; on a busy machine others may seem to, now and then.
    """
    tries = []
    for _ in range(TRIES):
        with watched(server) as holds:
            got, _, first = post(server, path, body)
        assert got == status, first
        server.wait_idle()
        tries.append((holds.lock_s, holds.loop_s))
        if max(tries[-1]) < MOST_CPU_S:
            return
    raise AssertionError(f"the interpreter's lock and the event loop were held for {tries} s")

"""Serves the application until told to stop, and then lets running requests finish."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from octavo.server.app import create_app
from octavo.server.banner import start_banner
from octavo.server.context import Server, ServerContext
from octavo.server.errors import public_cause
from octavo.server.http_protocol import HttpProtocol
from octavo.server.listening import BACKLOG, listen, tls_context

log = logging.getLogger(__name__)

INTERRUPTED = 130
"""Exit code of what Ctrl-C has cut short: 128 and the number of SIGINT, as shells have it."""
HURRY_LOOK_S = 0.1
"""While draining: how often to look whether to hurry."""
LONGEST_S = 10**9
"""Seconds that stand for infinity where a whole number is asked for."""
LAST_WORDS_S = 3
"""Time for the answers to requests that draining did not wait for."""


def run_server(context: ServerContext, listener: socket.socket) -> int:
    """Serve until SIGTERM or SIGINT, or until no worker is left; `context.loop` must be started. Returns the process's exit code.

    Then: no new connections, no new requests; running ones get `shutdown_timeout` seconds, the rest an error. A second
    SIGINT (Ctrl-C) takes the rest of that time away. The engine loop is stopped at the end, and both signals are ignored
    from then on. The code is 1 if the worker died, 130 after a second SIGINT, else 0.

    Args:
        context: what to serve.
        listener: as `listening.listener` made it; it is closed at the end.

    Raises:
        ConfigError: somebody else listens on the address by now, or the certificate cannot be read.
    """
    tls = tls_context(context.settings)
    app = create_app(context)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=HttpProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=context.settings.http_timeout_keep_alive,
        ssl_certfile=context.settings.ssl_certfile,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        timeout_graceful_shutdown=math.ceil(min(context.settings.shutdown_timeout, LONGEST_S)) + 3 * LAST_WORDS_S,
    )
    server = _DrainingServer(config, app.state.server)
    try:
        _on_signals(server.handle_exit)  # uvicorn's own come a moment later
        listen(listener, context.settings.uds)
        server.run(sockets=[listener])
    finally:
        _on_signals(_ignore)  # nothing is to cut the end short
        listener.close()
        context.loop.stop()
    death = context.loop.status().death
    if death is not None:
        log.error("exit code 1: the worker died: %s", public_cause(death))
        return 1
    return INTERRUPTED if server.hurried else 0


class _DrainingServer(uvicorn.Server):
    """uvicorn, with a banner at the start and the engine drained at the end."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._octavo = server
        self.hurried = False
        """Somebody was not willing to wait for running requests."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, hurry at Ctrl-C after it.

        uvicorn's own way to hurry leaves its tasks to be cancelled by the end of the event loop, each with a traceback.
        """
        if self.should_exit and sig == signal.SIGINT:
            self.hurried = True
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            _show(start_banner(self._octavo, sockets[0].getsockname()))

    async def on_tick(self, counter: int) -> bool:
        """Stop too when the engine has given up: nothing can be served any more."""
        return await super().on_tick(counter) or not self._octavo.context.loop.status().alive

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.create_task(self._drain())
        await super().shutdown(sockets)
        await draining

    async def _drain(self) -> None:
        """Wait for the engine's requests; then stop it, so that those left get an error while they can still hear it."""
        self._octavo.draining = True
        loop, timeout_s = self._octavo.context.loop, self._octavo.context.settings.shutdown_timeout
        log.info("shutting down: running requests have %g s; Ctrl-C ends them now", timeout_s)
        end_s = time.monotonic() + timeout_s
        while not (drained := await asyncio.to_thread(loop.drain, min(HURRY_LOOK_S, timeout_s))):
            if self.hurried or time.monotonic() >= end_s:
                break
        if not drained:
            log.warning(
                "requests still running %s end with an error", "now" if self.hurried else f"after {timeout_s:g} s"
            )
        await asyncio.to_thread(loop.stop)
        await self._part()

    async def _part(self) -> None:
        """Give clients LAST_WORDS_S to read their answers, then drop those who do not read."""
        for _ in range(int(LAST_WORDS_S / HURRY_LOOK_S)):
            if not self.server_state.connections:
                return
            await asyncio.sleep(HURRY_LOOK_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _show(text: str) -> None:
    """Print `text`; a standard output that takes nothing (a full disk, a reader that is gone) is no reason not to serve."""
    try:
        print(text, flush=True)
    except OSError as exc:
        log.warning("the banner could not be printed: %s", exc)
        # what is left in the buffer would be an error again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Not SIG_IGN, which a worker that is started now would inherit."""

"""Serves the application until told to stop, and then lets running requests finish."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from octavo.errors import ConfigError
from octavo.server.app import create_app
from octavo.server.context import Server, ServerContext
from octavo.server.errors import public_cause
from octavo.server.http_protocol import HttpProtocol
from octavo.server.screen import start_screen

log = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that may wait to be accepted."""
KEEP_ALIVE_S = 75
"""Longer than the idle time after which clients drop a connection, so that none is closed in their hands."""
LAST_WORDS_S = 3
"""Time for the answers to requests that draining did not wait for."""


def run_server(context: ServerContext) -> int:
    """Serve until SIGTERM or SIGINT, or until no worker is left; `context.loop` must be started. Returns the process's exit code.

    Then: no new connections, no new requests; running ones get `shutdown_timeout` seconds, the rest an error.
    The engine loop is stopped at the end. The code is 1 if the worker died, else 0.

    Raises:
        ConfigError: the address cannot be bound.
    """
    app = create_app(context)
    listener = bind(context.settings.host, context.settings.port)
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
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(context.settings.shutdown_timeout) + LAST_WORDS_S,
    )
    try:
        with _signals_ignored_after():
            _DrainingServer(config, app.state.server).run(sockets=[listener])
    finally:
        listener.close()
        context.loop.stop()
    death = context.loop.status().death
    if death is not None:
        log.error("exit code 1: the worker died: %s", public_cause(death))
        return 1
    return 0


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port` (0: any free one).

    Raises:
        ConfigError: the address is taken or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as exc:
        listener.close()
        reason = exc.strerror or str(exc)
        raise ConfigError("port", f"cannot listen on {host}:{port}: {reason}; choose another with --port") from exc
    listener.set_inheritable(False)
    return listener


class _DrainingServer(uvicorn.Server):
    """uvicorn, with a screen at the start and the engine drained at the end."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._octavo = server

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            print(start_screen(self._octavo, host, port), file=sys.stdout, flush=True)

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
        log.info("shutting down: running requests have %g s", timeout_s)
        if not await asyncio.to_thread(loop.drain, timeout_s):
            log.warning("requests still running after %g s end with an error", timeout_s)
        await asyncio.to_thread(loop.stop)


@contextmanager
def _signals_ignored_after() -> Iterator[None]:
    """uvicorn raises the signal that stopped it once more, to end the process; here that must not cut the end short."""

    def ignore(_number: int, _frame: FrameType | None) -> None:
        pass

    before = {number: signal.signal(number, ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Routes that say whether the server is well: health, readiness, a token made to prove it."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter
from starlette.responses import Response

from octavo.answers import Prompt
from octavo.errors import OverloadedError, WorkerDiedError
from octavo.sampling import SamplingParams
from octavo.server.call import Call
from octavo.server.context import Server
from octavo.server.generation import Generation
from octavo.server.json_pieces import json

PROBE_S = 30.0
"""How long /health_generate waits for its token."""
PROBE_FRESH_S = 1.0
"""A step this recent is proof enough; nothing need be generated."""


def probe_routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["probes"])
    context = server.context
    probe = _GenerateProbe(server)

    @router.get("/health", summary="Whether the worker makes progress")
    @router.get("/ping", summary="The same as /health")
    async def health() -> Response:
        return _health(server)

    @router.post("/ping", summary="The same as /health")
    async def ping() -> Response:
        return _health(server)

    @router.get("/ready", summary="Whether a request would be served at once")
    @router.get("/readyz", summary="The same as /ready")
    async def ready() -> Response:
        status = context.loop.status()
        trouble = "shutting down" if server.draining else server.trouble(status)
        return json({"status": trouble or "ready"}, 503 if trouble else 200)

    @router.get("/health_generate", summary="Whether a token was made a moment ago, or can be made now")
    async def health_generate() -> Response:
        trouble = await probe.trouble()
        return json({"status": trouble or "ok"}, 503 if trouble else 200)

    return router


def _health(server: Server) -> Response:
    status = server.context.loop.status()
    trouble = server.trouble(status)
    body = {
        "status": trouble or "ok",
        "worker_pid": status.worker_pid,
        "restarts": status.num_restarts,
        "running": status.running,
        "waiting": status.waiting,
        "last_step_age_s": round(status.last_step_age_s, 3),
    }
    return json(body, 503 if trouble else 200)


class _GenerateProbe:
    """One token for all who ask at the same time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._running: asyncio.Task[str | None] | None = None

    async def trouble(self) -> str | None:
        """Why no token can be made; None if one can."""
        server = self._server
        status = server.context.loop.status()
        if server.draining:
            return "shutting down"
        trouble = server.trouble(status)
        if trouble is not None or (status.steps and status.last_step_age_s < PROBE_FRESH_S):
            return trouble
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._generate())
        return await asyncio.shield(self._running)

    async def _generate(self) -> str | None:
        sampling = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
        call = Call(None, [Prompt(0, [0], None)], [sampling])
        generation = Generation(self._server, call, f"probe-{time.monotonic_ns()}")
        try:
            await generation.begin()
            async with asyncio.timeout(PROBE_S):
                while generation.answers.running:
                    await generation.advance()
        except TimeoutError:
            return f"no token within {PROBE_S:.0f} s"
        except (OverloadedError, WorkerDiedError) as error:
            return error.message
        finally:
            generation.close()
        return None

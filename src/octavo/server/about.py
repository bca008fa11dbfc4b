"""Routes that say what the server is and does: version, load, metrics, settings."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from octavo.server.context import Server
from octavo.server.json_pieces import json
from octavo.version import __version__


def about_routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["about"])
    context = server.context

    @router.get("/version", summary="Octavo's version")
    async def get_version() -> Response:
        return json({"version": __version__})

    @router.get("/load", summary="Requests running and waiting, KV use")
    async def load() -> Response:
        status = context.loop.status()
        return json(
            {
                "server_load": status.running + status.waiting,
                "running": status.running,
                "waiting": status.waiting,
                "kv_cache_usage": status.kv_usage,
            }
        )

    @router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(context.metrics.text(), media_type="text/plain; version=0.0.4")

    @router.get("/server_info", summary="Settings, limits, the worker, how long the start took")
    async def server_info() -> Response:
        return json(_server_info(server))

    return router


def _server_info(server: Server) -> dict[str, Any]:
    context = server.context
    status = context.loop.status()
    ready = msgspec.to_builtins(context.worker_ready)
    return {
        "version": __version__,
        "models": list(server.model_names),
        "system_fingerprint": server.fingerprint,
        "started": server.started_s,
        "pid": os.getpid(),
        "worker": {**ready, "pid": status.worker_pid, "restarts": status.num_restarts, "alive": status.alive},
        "engine": msgspec.to_builtins(context.engine_config)
        | {
            "max_request_tokens": server.most_tokens,
            "free_blocks": status.free_blocks,
            "step_token_limit": status.step_token_limit,
        },
        "settings": msgspec.to_builtins(context.settings.public()),
        "start_s": dict(context.phases),
    }

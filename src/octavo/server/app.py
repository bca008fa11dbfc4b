"""The HTTP application: routes, the middleware before them, one answer for every error."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from octavo.server.about import about_routes
from octavo.server.chat import chat_routes
from octavo.server.chat_request import ChatRequest
from octavo.server.completion_request import CompletionRequest
from octavo.server.completions import completion_routes
from octavo.server.context import Server, ServerContext
from octavo.server.errors import error_response, from_http
from octavo.server.messages.request import CountTokensRequest, MessagesRequest
from octavo.server.messages.routes import message_routes
from octavo.server.middleware import RequestMiddleware
from octavo.server.models import model_routes
from octavo.server.page import page_routes
from octavo.server.probes import probe_routes
from octavo.server.responses import ResponseRequest, response_routes
from octavo.server.stats import keep_logging, watch_worker
from octavo.server.token_request import DetokenizeRequest, TokenizeRequest
from octavo.server.tokens import token_routes
from octavo.version import __version__

RECOVERING_S = 1.0
"""Seconds of silence before an SSE comment line while the next worker takes over."""

BODIES: tuple[type[BaseModel], ...] = (
    CompletionRequest,
    ChatRequest,
    ResponseRequest,
    MessagesRequest,
    CountTokensRequest,
    TokenizeRequest,
    DetokenizeRequest,
)
ROUTES = (
    completion_routes, chat_routes, response_routes, message_routes, model_routes, token_routes, probe_routes, about_routes,
    page_routes,
)  # fmt: skip


def create_app(context: ServerContext) -> FastAPI:
    """The application for `context`; its `state.server` is what `run_server` drains.

    Errors that routes raise pass through to the middleware, which answers them all.
    """
    server = Server(context)
    context.metrics.watch(context.loop.status)
    app = FastAPI(
        title="Octavo",
        version=__version__,
        openapi_url=None if context.settings.disable_fastapi_docs else "/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan(server),
        responses=_ERRORS,
    )
    app.state.server = server
    for routes in ROUTES:
        app.include_router(routes(server))
    app.add_exception_handler(HTTPException, _on_http)
    app.add_middleware(RequestMiddleware, server=server)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=context.settings.allowed_origins,
        allow_methods=context.settings.allowed_methods,
        allow_headers=context.settings.allowed_headers,
        allow_credentials=context.settings.allow_credentials,
        expose_headers=["X-Request-Id", "Retry-After"],
    )
    app.openapi = _openapi(app)  # type: ignore[method-assign]
    return app


def _lifespan(server: Server) -> Any:
    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        context = server.context
        context.dispatcher.bind(asyncio.get_running_loop())
        tasks = [asyncio.create_task(keep_logging(server)), asyncio.create_task(watch_worker(server))]
        interval_s = context.settings.sse_keep_alive_interval
        if interval_s > 0:
            tasks.append(asyncio.create_task(_keep_alive(server, interval_s)))
        with _kept_from_collection():
            yield
        for task in tasks:
            task.cancel()
        server.close()

    return lifespan


@contextlib.contextmanager
def _kept_from_collection() -> Iterator[None]:
    """Leave all that is there out of garbage collections: each full one would look at it, and hold up everybody meanwhile.

    Where the process has done so itself, that stays as it is: to undo it at the end would undo what is not ours.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _keep_alive(server: Server, interval_s: float) -> None:
    """Wake streams that were silent for `interval_s` seconds, or for a shorter time during a recovery."""
    while True:
        await asyncio.sleep(min(interval_s, RECOVERING_S) / 4)
        recovering = server.context.loop.status().recovering
        server.context.dispatcher.poke_idle(min(interval_s, RECOVERING_S) if recovering else interval_s)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    answer = error_response(from_http(error, path, request.method), request.state.request_id, path)
    answer.headers.update(error.headers or {})
    return answer


_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "integer"},
            },
        }
    },
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    for status, text in {
        400: "The request is wrong; param names the field",
        401: "The API key is missing or wrong",
        404: "No such model or path",
        413: "The body is too large",
        500: "This request failed",
        503: "No room now; see Retry-After",
    }.items()
}


def _openapi(app: FastAPI) -> Any:
    """FastAPI's description, with the bodies that `Server.read` reads."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Error"] = _ERROR_SCHEMA
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)  # FastAPI's own answer, which the middleware never gives
        for model in BODIES:
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        return document

    return openapi

"""POST /v1/responses, and the routes of responses that were kept: none ever is."""

from __future__ import annotations

from typing import NoReturn

from fastapi import APIRouter
from starlette.responses import Response

from octavo.errors import NotFoundError
from octavo.server.context import Server
from octavo.server.generation_route import GenerationRoute
from octavo.server.responses.names import RESPONSE_NAMES
from octavo.server.responses.request import ResponseRequest
from octavo.server.responses.writer import ResponseWriter


def response_routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["generation"])

    GenerationRoute(
        path="/v1/responses",
        name="responses",
        summary="Answer a conversation, in items",
        body=ResponseRequest,
        writer=ResponseWriter,
        names=RESPONSE_NAMES,
    ).add_to(router, server)

    @router.get("/v1/responses/{response_id}", summary="A response that was kept: there is none")
    async def retrieve(response_id: str) -> Response:
        _not_kept(response_id)

    @router.delete("/v1/responses/{response_id}", summary="Forget a response that was kept: there is none")
    async def delete(response_id: str) -> Response:
        _not_kept(response_id)

    @router.get(
        "/v1/responses/{response_id}/input_items", summary="The input of a response that was kept: there is none"
    )
    async def input_items(response_id: str) -> Response:
        _not_kept(response_id)

    @router.post("/v1/responses/{response_id}/cancel", summary="End a response in the background: there is none")
    async def cancel(response_id: str) -> Response:
        _not_kept(response_id)

    return router


def _not_kept(response_id: str) -> NoReturn:
    raise NotFoundError(
        f"there is no response {response_id[:200]!r}: none is kept here (store is false), so keep what you are answered",
        param="response_id",
    )

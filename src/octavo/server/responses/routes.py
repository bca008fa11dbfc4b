"""POST /v1/responses, and the routes of responses that were kept: none ever is."""

from __future__ import annotations

from typing import NoReturn

from fastapi import APIRouter, Request
from starlette.responses import Response

from octavo.errors import NotFoundError
from octavo.server.body import body_schema
from octavo.server.context import Server
from octavo.server.generation import Generation
from octavo.server.responses.request import ResponseRequest
from octavo.server.responses.writer import ResponseWriter
from octavo.server.writing import STREAMED


def response_routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["generation"])

    @router.post(
        "/v1/responses",
        summary="Answer a conversation, in items",
        openapi_extra=body_schema(ResponseRequest),
        responses=STREAMED,
    )
    async def responses(request: Request) -> Response:
        server.check_accepting()
        call = await server.read(request, ResponseRequest)
        request_id = request.state.request_id
        prompts, samplings = call.call.prompts, call.call.samplings
        generation = Generation(server, prompts, samplings, request_id, reading=call.reading)
        server.log_request(request_id, prompts, samplings)
        return await ResponseWriter(server, call, generation, request_id).answer(request)

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

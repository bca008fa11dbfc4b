"""POST /v1/messages and POST /v1/messages/count_tokens."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from octavo.errors import RequestError
from octavo.server.body import body_schema
from octavo.server.context import Server
from octavo.server.generation_route import GenerationRoute
from octavo.server.json_pieces import json
from octavo.server.messages.failures import PATH
from octavo.server.messages.names import MESSAGE_NAMES
from octavo.server.messages.request import CountTokensRequest, MessagesRequest
from octavo.server.messages.writing import MessageWriter

VERSIONS = ("2023-06-01", "2026-10-21")
"""Of the protocol. The newer one only takes less, and what it takes no more is served for both. Betas are told in another
header, and none of them changes what is here."""

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
        "request_id": {"type": "string"},
    },
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": _SCHEMA}}}
    for status, text in {
        400: "The request is wrong; the message names the field",
        401: "The API key is missing or wrong",
        404: "No such model",
        413: "The body is too large",
        500: "This request failed",
        529: "No room now; see Retry-After",
    }.items()
}


def message_routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["messages"], responses=_ERRORS)

    GenerationRoute(
        path=PATH,
        name="messages",
        summary="Answer a conversation, in Anthropic's protocol",
        body=MessagesRequest,
        writer=MessageWriter,
        names=MESSAGE_NAMES,
        check=check_version,
    ).add_to(router, server)

    @router.post(
        f"{PATH}/count_tokens",
        summary="Count the tokens of a conversation",
        openapi_extra=body_schema(CountTokensRequest),
    )
    async def count_tokens(request: Request) -> Response:
        check_version(request)
        return json({"input_tokens": await server.read(request, CountTokensRequest)})

    return router


def check_version(request: Request) -> None:
    """Raises RequestError if the client speaks a version that is not served; one that names none speaks any."""
    version = request.headers.get("anthropic-version")
    if version is not None and version not in VERSIONS:
        raise RequestError(
            f"anthropic-version is {version[:40]!r}, but only {' and '.join(VERSIONS)} are served",
            param="anthropic-version",
        )

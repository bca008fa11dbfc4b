"""/tokenize, /detokenize, /tokenizer_info, and the reset of the prefix cache."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from octavo.server.body import body_schema
from octavo.server.context import Server
from octavo.server.json_pieces import JsonPieces, json
from octavo.server.token_request import DetokenizeRequest, TokenizeRequest

_BUSY = {"description": "Requests are running; nothing was done", "content": {"application/json": {}}}


def token_routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["tokens"])
    tokenizer = server.context.tokenizer

    @router.post("/tokenize", summary="Text or messages to token ids", openapi_extra=body_schema(TokenizeRequest))
    async def tokenize_text(request: Request) -> Response:
        return JsonPieces(await server.read(request, TokenizeRequest))

    @router.post("/detokenize", summary="Token ids to text", openapi_extra=body_schema(DetokenizeRequest))
    async def detokenize(request: Request) -> Response:
        return JsonPieces(await server.read(request, DetokenizeRequest))

    @router.get("/tokenizer_info", summary="The tokenizer's configuration")
    async def tokenizer_info() -> Response:
        template = server.context.chat_template
        info: dict[str, Any] = {"tokenizer_class": type(tokenizer).__name__, **tokenizer.info}
        return json({**info, "chat_template": template.source if template is not None else None})

    @router.post("/reset_prefix_cache", summary="Forget all cached prefixes", responses={409: _BUSY})
    async def reset_prefix_cache() -> Response:
        done = await asyncio.to_thread(server.context.loop.reset_prefix_cache)
        return json({"reset": done}, 200 if done else 409)

    return router

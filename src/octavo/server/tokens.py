"""/tokenize, /detokenize, /tokenizer_info, and the reset of the prefix cache."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from starlette.responses import Response

from octavo.errors import RequestError
from octavo.server.body import body_schema, json, read_body
from octavo.server.chat import chat_prompt
from octavo.server.chat_request import ChatFields, Message
from octavo.server.context import Server
from octavo.text.tokenizer import token_text


class TokenizeRequest(ChatFields):
    """A text, or messages."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    messages: list[Message] = Field(default=[], min_length=1)
    model: str | None = None
    prompt: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(BaseModel):
    """Token ids."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    model: str | None = None
    tokens: Annotated[list[StrictInt], Field(fail_fast=True)]


_BUSY = {"description": "Requests are running; nothing was done", "content": {"application/json": {}}}


def token_routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["tokens"])
    tokenizer = server.context.tokenizer

    @router.post("/tokenize", summary="Text or messages to token ids", openapi_extra=body_schema(TokenizeRequest))
    async def tokenize_text(request: Request) -> Response:
        body = await read_body(request, TokenizeRequest)
        server.check_model(body.model)
        ids = await _ids(server, body)
        strings = [token_text(tokenizer, id_) for id_ in ids] if body.return_token_strs else None
        limit = server.context.engine_config.max_model_len
        return json({"count": len(ids), "max_model_len": limit, "tokens": ids, "token_strs": strings})

    @router.post("/detokenize", summary="Token ids to text", openapi_extra=body_schema(DetokenizeRequest))
    async def detokenize(request: Request) -> Response:
        body = await read_body(request, DetokenizeRequest)
        server.check_model(body.model)
        vocabulary = server.context.engine_config.vocab_size
        wrong = next((id_ for id_ in body.tokens if not 0 <= id_ < vocabulary), None)
        if wrong is not None:
            raise RequestError(f"tokens holds id {wrong}; ids go from 0 to {vocabulary - 1}", param="tokens")
        text = await server.offload(len(body.tokens), lambda: tokenizer.decode(body.tokens, skip_special_tokens=False))
        return json({"prompt": text})

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


async def _ids(server: Server, body: TokenizeRequest) -> list[int]:
    if body.prompt is not None and body.messages:
        raise RequestError("give prompt or messages, not both", param="messages")
    if body.messages:
        prompt = await chat_prompt(server, body, add_special_tokens=bool(body.add_special_tokens))
        return prompt.token_ids
    if body.prompt is None:
        raise RequestError("prompt: Field required (or messages)", param="prompt")
    text, special = body.prompt, body.add_special_tokens is not False
    return await server.offload(len(text), lambda: server.context.tokenizer.encode(text, add_special_tokens=special))

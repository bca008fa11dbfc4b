"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from starlette.responses import Response

from octavo.answers import Answer, Part
from octavo.server.body import body_schema
from octavo.server.chat_request import ChatRequest
from octavo.server.context import Server
from octavo.server.generation import Generation
from octavo.server.scores import chat_logprobs, prompt_logprobs
from octavo.server.writing import STREAMED, AnswerWriter
from octavo.text import Tokenizer


def chat_routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["generation"])

    @router.post(
        "/v1/chat/completions",
        summary="Answer a conversation",
        openapi_extra=body_schema(ChatRequest),
        responses=STREAMED,
    )
    async def chat_completions(request: Request) -> Response:
        server.check_accepting()
        call = await server.read(request, ChatRequest)
        request_id = request.state.request_id
        generation = Generation(server, call.prompts, call.samplings, request_id)
        server.log_request(request_id, call.prompts, call.samplings)
        answer_format = ChatFormat(
            server.context.tokenizer, call.body, call.body.continued_role or server.context.settings.response_role
        )
        return await AnswerWriter(server, call.body, answer_format, generation, request_id).answer(request)

    return router


class ChatFormat:
    """`chat.completion` objects and their chunks."""

    id_prefix: ClassVar[str] = "chatcmpl"
    object: ClassVar[str] = "chat.completion"
    chunk_object: ClassVar[str] = "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, body: ChatRequest, role: str) -> None:
        self._tokenizer = tokenizer
        self._body = body
        self._role = role

    def first_chunk(self, answer: Answer) -> dict[str, Any] | None:
        delta = {"role": self._role, "content": ""}
        return {"index": answer.index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk(self, answer: Answer, part: Part) -> dict[str, Any]:
        return self._choice(answer, part, {"delta": {"content": part.text}})

    def message(self, answer: Answer, part: Part) -> dict[str, Any]:
        return self._choice(answer, part, {"message": {"role": self._role, "content": part.text}})

    def extras(self, answers: Sequence[Answer]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        answer = answers[0]
        if self._body.return_token_ids:
            fields["prompt_token_ids"] = list(answer.prompt.token_ids)
        if self._body.prompt_logprobs is not None and answer.prompt_scores is not None:
            fields["prompt_logprobs"] = prompt_logprobs(self._tokenizer, answer.prompt_scores)
        return fields

    def _choice(self, answer: Answer, part: Part, content: dict[str, Any]) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": answer.index, **content, "logprobs": None}
        if self._body.logprobs:
            choice["logprobs"] = chat_logprobs(self._tokenizer, part)
        choice["finish_reason"], choice["stop_reason"] = answer.finish_reason, answer.stop_reason
        if self._body.return_token_ids:
            choice["token_ids"] = part.token_ids
        return choice

"""POST /v1/chat/completions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from starlette.responses import Response

from octavo.errors import RequestError
from octavo.server.answer import Answer, Part, Prompt
from octavo.server.body import body_schema
from octavo.server.chat_request import ChatFields, ChatRequest
from octavo.server.context import Server
from octavo.server.fields import Json
from octavo.server.generation import Generation
from octavo.server.prompts import bounded, receive, tokenize
from octavo.server.scores import chat_logprobs, prompt_logprobs
from octavo.server.telling import STREAMED, Teller
from octavo.text import Tokenizer
from octavo.text.messages import size_of


def chat_routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["generation"])

    @router.post(
        "/v1/chat/completions",
        summary="Answer a conversation",
        openapi_extra=body_schema(ChatRequest),
        responses=STREAMED,
    )
    async def chat_completions(request: Request) -> Response:
        body = await receive(server, request, ChatRequest)
        sampling = body.to_sampling(server.context.default_sampling)
        prompt = await chat_prompt(server, body, add_special_tokens=body.add_special_tokens)
        samplings = [bounded(server, sampling, prompt, body.answer_tokens)]
        request_id = request.state.request_id
        generation = Generation(server, [prompt], samplings, request_id)
        server.log_request(request_id, [prompt], samplings)
        shape = ChatShape(server.context.tokenizer, body, server.context.settings.response_role)
        return await Teller(server, body, shape, generation, request_id).answer(request)

    return router


async def chat_prompt(server: Server, body: ChatFields, *, add_special_tokens: bool) -> Prompt:
    """Render the messages and tokenize the text.

    Raises:
        RequestError: the template refuses the messages, or there is none.
    """
    messages = body.plain_messages()
    return await server.offload(
        size_of(messages), functools.partial(_render, server, body, messages, add_special_tokens)
    )


def _render(server: Server, body: ChatFields, messages: list[Json], add_special_tokens: bool) -> Prompt:
    template = server.context.chat_template
    if template is None:
        raise RequestError(
            "the model has no chat template: give one with --chat-template, or use /v1/completions", param="messages"
        )
    text = template.render(
        messages,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        kwargs=body.chat_template_kwargs,
    )
    ids = tokenize(
        server.context.tokenizer, text, server.most_tokens, add_special_tokens=add_special_tokens, param="messages"
    )
    return Prompt(0, ids, text)


class ChatShape:
    """`chat.completion` objects and their chunks."""

    id_prefix: ClassVar[str] = "chatcmpl"
    object: ClassVar[str] = "chat.completion"
    chunk_object: ClassVar[str] = "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, body: ChatRequest, role: str) -> None:
        self._tokenizer = tokenizer
        self._body = body
        self._role = role if body.add_generation_prompt else body.messages[-1].role

    def opening(self, answer: Answer) -> dict[str, Any] | None:
        delta = {"role": self._role, "content": ""}
        return {"index": answer.index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, answer: Answer, part: Part) -> dict[str, Any]:
        return self._choice(answer, part, {"delta": {"content": part.text}})

    def whole(self, answer: Answer, part: Part) -> dict[str, Any]:
        return self._choice(answer, part, {"message": {"role": self._role, "content": part.text}})

    def beside(self, answers: Sequence[Answer]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        answer = answers[0]
        if self._body.return_token_ids:
            fields["prompt_token_ids"] = answer.prompt.token_ids
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

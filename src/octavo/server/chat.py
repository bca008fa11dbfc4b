"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from fastapi import APIRouter

from octavo.answers import Answer, Part
from octavo.server.call import Call
from octavo.server.chat_message import ChatMessages
from octavo.server.chat_request import NAMES, ChatRequest
from octavo.server.context import Server
from octavo.server.generation import Generation
from octavo.server.generation_route import GenerationRoute
from octavo.server.scores import chat_logprobs, naming, prompt_logprobs
from octavo.server.writing import AnswerWriter
from octavo.text import Tokenizer


def chat_routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["generation"])
    GenerationRoute(
        path="/v1/chat/completions",
        name="chat_completions",
        summary="Answer a conversation",
        body=ChatRequest,
        writer=_writer,
        names=NAMES,
    ).add_to(router, server)
    return router


def _writer(server: Server, call: Call[ChatRequest], generation: Generation, request_id: str) -> AnswerWriter:
    role = call.body.continued_role or server.context.settings.response_role
    answer_format = ChatFormat(server.context.tokenizer, call.body, role, request_id)
    return AnswerWriter(server, call.body, answer_format, generation, request_id)


class ChatFormat:
    """`chat.completion` objects and their chunks."""

    id_prefix: ClassVar[str] = "chatcmpl"
    object: ClassVar[str] = "chat.completion"
    chunk_object: ClassVar[str] = "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, body: ChatRequest, role: str, request_id: str) -> None:
        self._tokenizer = tokenizer
        self._body = body
        self._name = naming(as_ids=body.return_tokens_as_token_ids)
        self._role = role
        form = body.reading.form
        self._messages = ChatMessages(
            request_id,
            include_reasoning=body.include_reasoning,
            short_ids=form is not None and form.short_ids,
        )

    def first_chunk(self, answer: Answer) -> dict[str, Any] | None:
        delta = {"role": self._role, "content": ""}
        return {"index": answer.index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunks(self, answer: Answer, part: Part) -> list[dict[str, Any]]:
        """A choice for each channel that has news; tokens and their scores come with the first, the end with the last."""
        if self._body.reading.splits:
            deltas = self._messages.deltas(answer, part.events)
            must_tell = answer.finished() or self._shows_tokens
        else:
            deltas = [{"content": part.text}] if part.text else []
            must_tell = answer.finished() or self._shows_tokens or answer.parts_taken == 1
        if not deltas:
            return [self._choice(answer, part, {"delta": self._nothing})] if must_tell else []
        choices = [
            self._choice(answer, part, {"delta": delta}, tokens=not number) for number, delta in enumerate(deltas)
        ]
        for choice in choices[:-1]:
            choice["finish_reason"] = choice["stop_reason"] = None
        return choices

    def message(self, answer: Answer, part: Part) -> dict[str, Any]:
        said = self._messages.message(answer, part) if self._body.reading.splits else {"content": part.text}
        return self._choice(answer, part, {"message": {"role": self._role, **said}})

    def extras(self, answers: Sequence[Answer]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        answer = answers[0]
        if self._body.return_token_ids:
            fields["prompt_token_ids"] = list(answer.prompt.token_ids)
        if self._body.prompt_logprobs is not None and answer.prompt_scores is not None:
            fields["prompt_logprobs"] = prompt_logprobs(self._tokenizer, answer.prompt_scores)
        return fields

    @property
    def _nothing(self) -> dict[str, Any]:
        """The delta of a part in which no channel has news."""
        return {} if self._body.reading.splits else {"content": ""}

    @property
    def _shows_tokens(self) -> bool:
        """A part without text has something to tell: the tokens themselves."""
        return bool(self._body.logprobs or self._body.return_token_ids)

    def _choice(self, answer: Answer, part: Part, said: dict[str, Any], *, tokens: bool = True) -> dict[str, Any]:
        """`said`, with what tokens it took and how it ended."""
        choice: dict[str, Any] = {"index": answer.index, **said, "logprobs": None}
        if self._body.logprobs and tokens:
            choice["logprobs"] = chat_logprobs(self._tokenizer, part, self._name)
        choice["finish_reason"], choice["stop_reason"] = _end(answer), answer.stop_reason
        if self._body.return_token_ids:
            choice["token_ids"] = part.token_ids if tokens else []
        return choice


def _end(answer: Answer) -> str | None:
    """Why the answer ended; calls of tools are a reason of their own, unless the answer was cut."""
    return "tool_calls" if answer.num_calls and answer.finish_reason == "stop" else answer.finish_reason

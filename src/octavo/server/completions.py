"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from fastapi import APIRouter

from octavo.answers import Answer, Part
from octavo.server.call import Call
from octavo.server.completion_request import CompletionRequest
from octavo.server.context import Server
from octavo.server.generation import Generation
from octavo.server.generation_route import GenerationRoute
from octavo.server.scores import legacy_logprobs, naming, prompt_logprobs, prompt_part
from octavo.server.writing import AnswerWriter
from octavo.text import Tokenizer


def completion_routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["generation"])
    GenerationRoute(
        path="/v1/completions",
        name="completions",
        summary="Continue each prompt",
        body=CompletionRequest,
        writer=_writer,
    ).add_to(router, server)
    return router


def _writer(server: Server, call: Call[CompletionRequest], generation: Generation, request_id: str) -> AnswerWriter:
    return AnswerWriter(
        server, call.body, CompletionFormat(server.context.tokenizer, call.body), generation, request_id
    )


class CompletionFormat:
    """`text_completion` objects; a chunk looks like a whole."""

    id_prefix: ClassVar[str] = "cmpl"
    object: ClassVar[str] = "text_completion"
    chunk_object: ClassVar[str] = "text_completion"

    def __init__(self, tokenizer: Tokenizer, body: CompletionRequest) -> None:
        self._tokenizer = tokenizer
        self._body = body
        self._name = naming(as_ids=body.return_tokens_as_token_ids)
        self._echoed: dict[int, Part] = {}

    def first_chunk(self, answer: Answer) -> dict[str, Any] | None:
        return None

    def chunks(self, answer: Answer, part: Part) -> list[dict[str, Any]]:
        shows_tokens = self._body.logprobs is not None or bool(self._body.return_token_ids)
        tells = answer.parts_taken == 1 or bool(part.text) or answer.finished() or shows_tokens
        return [self._choice(answer, part)] if tells else []

    def message(self, answer: Answer, part: Part) -> dict[str, Any]:
        choice = self._choice(answer, part)
        if self._body.prompt_logprobs is not None and answer.prompt_scores is not None:
            choice["prompt_logprobs"] = prompt_logprobs(self._tokenizer, answer.prompt_scores)
        return choice

    def extras(self, answers: Sequence[Answer]) -> dict[str, Any]:
        return {}

    def _choice(self, answer: Answer, part: Part) -> dict[str, Any]:
        first = answer.parts_taken == 1
        start = 0
        if self._body.echo:
            echoed = self._echo(answer)
            start = len(echoed.text)
            if first:
                part = _joined(echoed, part, scores_only=self._body.only_scores)
                start = 0
        choice: dict[str, Any] = {"index": answer.index, "text": part.text, "logprobs": None}
        if self._body.logprobs is not None:
            choice["logprobs"] = legacy_logprobs(self._tokenizer, part, start, self._name)
        choice["finish_reason"], choice["stop_reason"] = answer.finish_reason, answer.stop_reason
        if self._body.return_token_ids:
            choice["token_ids"] = part.token_ids
            if first:
                choice["prompt_token_ids"] = list(answer.prompt.token_ids)
        return choice

    def _echo(self, answer: Answer) -> Part:
        """The prompt of `answer`, as a part."""
        part = self._echoed.get(answer.index)
        if part is None:
            part = prompt_part(self._tokenizer, answer.prompt.token_ids, answer.prompt_scores)
            if answer.prompt.text is not None:
                part.text = answer.prompt.text
            self._echoed[answer.index] = part
        return part


def _joined(echoed: Part, part: Part, *, scores_only: bool) -> Part:
    """The prompt followed by what was made, or the prompt alone."""
    if scores_only:
        return echoed
    start = len(echoed.text)
    return Part(
        text=echoed.text + part.text,
        token_ids=echoed.token_ids + part.token_ids,
        scores=echoed.scores + part.scores,
        offsets=echoed.offsets + [start + offset for offset in part.offsets],
    )

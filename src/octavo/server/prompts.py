"""What both generation routes do with a prompt: count it, cut nothing, refuse what is too long."""

from __future__ import annotations

from typing import TypeVar

from starlette.requests import Request

from octavo.errors import RequestError
from octavo.sampling import SamplingParams
from octavo.server.answer import Prompt
from octavo.server.body import read_body
from octavo.server.context import Server
from octavo.server.errors import checked_id
from octavo.server.fields import GenerationFields
from octavo.text import Tokenizer

Body = TypeVar("Body", bound=GenerationFields)


async def receive(server: Server, request: Request, model: type[Body]) -> Body:
    """The body of a generation request, checked in all that does not depend on the prompt's length. A `request_id` in
    it becomes the request's id.

    Raises:
        RequestError: something is wrong; `param` names the field.
        OverloadedError: the server is shutting down.
    """
    body = await read_body(request, model)
    if body.request_id is not None:
        request.state.request_id = checked_id(body.request_id, "request_id")
    server.check_accepting()
    server.check_model(body.model)
    body.check()
    return body


def tokenize(
    tokenizer: Tokenizer, text: str, limit: int, *, add_special_tokens: bool, param: str = "prompt"
) -> list[int]:
    """Token ids of `text`; a text that cannot fit `limit` tokens is refused unread.

    Raises:
        RequestError: too long, or not text.
    """
    longest = tokenizer.longest_token
    if longest is not None and len(text) > limit * longest:
        raise RequestError(
            f"{param} has {len(text)} characters, more than {limit} tokens can hold: at most {limit} tokens fit",
            param=param,
        )
    return tokenizer.encode(text, add_special_tokens=add_special_tokens)


def bounded(
    server: Server,
    sampling: SamplingParams,
    prompt: Prompt,
    asked: tuple[str, int | None],
    *,
    default: int | None = None,
) -> SamplingParams:
    """`sampling` with the max_tokens that `prompt` leaves room for; `asked` is the client's field and value.

    Raises:
        RequestError: the client asked for more than fits; the message has both numbers.
    """
    name, wanted = asked
    length, limit = len(prompt.token_ids), server.most_tokens
    if wanted is not None and length < limit < length + wanted:
        raise RequestError(
            f"{name} is {wanted} and the prompt has {length} tokens, together {length + wanted}, but a request may have "
            f"at most {limit} tokens",
            param=name,
        )
    bound = server.context.default_sampling.max_tokens
    most = [value for value in (default if wanted is None else wanted, bound) if value is not None]
    max_tokens = min(most, default=None)
    if max_tokens is None or max_tokens == sampling.max_tokens:
        return sampling
    if max_tokens < sampling.min_tokens and wanted is None:
        max_tokens = sampling.min_tokens
    return sampling.replace(max_tokens=max_tokens)

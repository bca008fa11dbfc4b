"""What both generation routes do with a prompt: count it, cut nothing, refuse what is too long."""

from __future__ import annotations

from octavo.errors import RequestError
from octavo.sampling import SamplingParams
from octavo.server.answer import Prompt
from octavo.server.context import Server
from octavo.text import Tokenizer


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

"""Names of fields: what a request to chat calls one, and what a response calls it, in errors."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

from octavo.errors import RequestError

OF_CHAT = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "top_logprobs",
    "messages": "input",
    "prompt": "input",
}
"""Field of chat -> field of a response."""
_IN_TEXT = re.compile(
    r"\b(?:max_completion_tokens|max_tokens|response_format|reasoning_effort)\b|^(?:logprobs|messages|prompt)\b"
)
_MESSAGE = re.compile(r"messages[\[.](\d+)\]?(?:\.tool_calls(?:\[\d+\])?)?")
_FUNCTION = re.compile(r"tools\.(\d+)(\.function)?")


@contextlib.contextmanager
def renaming(origins: Sequence[str] = ()) -> Iterator[None]:
    """Meanwhile, errors name fields as responses do; `origins` are the fields that the messages of chat were made of."""

    def rename(text: str) -> str:
        text = _MESSAGE.sub(lambda found: _origin(origins, int(found[1])), text)
        text = _FUNCTION.sub(lambda found: f"tools[{found[1]}]", text)
        return _IN_TEXT.sub(lambda found: OF_CHAT[found[0]], text)

    try:
        yield
    except RequestError as error:
        error.message = rename(error.message)
        if error.param is not None:
            error.param = rename(error.param)
        raise


def _origin(origins: Sequence[str], number: int) -> str:
    return origins[number] if number < len(origins) else "input"

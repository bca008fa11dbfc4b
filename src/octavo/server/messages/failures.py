"""Errors as Anthropic's clients read them: `{"type": "error", "error": {"type", "message"}, "request_id"}`."""

from __future__ import annotations

import re
from typing import Any

from octavo.errors import OctavoError, PromptTooLongError, RequestError

PATH = "/v1/messages"
STATUS = {503: 529}
"""Where theirs is another."""
KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    431: "request_too_large",
    500: "api_error",
    503: "overloaded_error",
}
"""Status to type; invalid_request_error for others."""
NAMES = {
    "stop": "stop_sequences",
    "prompt": "messages",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "thinking_token_budget": "thinking.budget_tokens",
}
"""Field of chat -> field of a message."""
DETAILS = {"thread": {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}}
"""Of errors about a field, where clients read them: theirs goes on without a thread, and sends all messages."""
_UNLIKE_WORDS = {**NAMES, "reasoning_effort none": "thinking of type disabled"}
"""Those of chat that are no words of a sentence."""
_UNLIKE_WORD = re.compile(r"\b(response_format|reasoning_effort(?: none)?|thinking_token_budget)\b")


def speaks_messages(path: str) -> bool:
    """Whether clients of `path` read errors in this shape."""
    return path == PATH or path.startswith(f"{PATH}/")


def messages_error(error: OctavoError, message: str, request_id: str) -> dict[str, Any]:
    """The body for `error`, with what `message` says of it."""
    if isinstance(error, PromptTooLongError):
        # These words make agents shorten their conversation, and go on.
        message = f"prompt is too long: {error.num_tokens} tokens > {error.most} maximum"
    elif isinstance(error, RequestError):
        message = _named(message, error.param)
    told: dict[str, Any] = {"type": KINDS.get(error.status, "invalid_request_error"), "message": message}
    if isinstance(error, RequestError) and error.param in DETAILS:
        told["details"] = DETAILS[error.param]
    return {"type": "error", "error": told, "request_id": request_id}


def _named(message: str, param: str | None) -> str:
    """`message`, with the field by the name that it has here."""
    if param is None:
        return message
    name = NAMES.get(param, param)
    message = name + message[len(param) :] if message.startswith(param) else message
    message = _UNLIKE_WORD.sub(lambda found: _UNLIKE_WORDS[found[0]], message)
    where, space, rest = message.partition(" ")
    where = where.replace(".function.parameters", ".input_schema").replace(".function.", ".")
    message = where + space + rest
    return message if name in message else f"{name}: {message}"

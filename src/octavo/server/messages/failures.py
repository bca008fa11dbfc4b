"""Errors as Anthropic's clients read them: `{"type": "error", "error": {"type", "message"}, "request_id"}`."""

from __future__ import annotations

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
DETAILS = {"thread": {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}}
"""Of errors about a field, where clients read them: theirs goes on without a thread, and sends all messages."""


def speaks_messages(path: str) -> bool:
    """Whether clients of `path` read errors in this shape."""
    return path == PATH or path.startswith(f"{PATH}/")


def messages_error(error: OctavoError, message: str, request_id: str) -> dict[str, Any]:
    """The body for `error`, with what `message` says of it."""
    if isinstance(error, PromptTooLongError):
        # These words make agents shorten their conversation, and go on.
        message = f"prompt is too long: {error.num_tokens} tokens > {error.most} maximum"
    elif isinstance(error, RequestError) and error.param is not None and error.param not in message:
        message = f"{error.param}: {message}"
    told: dict[str, Any] = {"type": KINDS.get(error.status, "invalid_request_error"), "message": message}
    if isinstance(error, RequestError) and error.param in DETAILS:
        told["details"] = DETAILS[error.param]
    return {"type": "error", "error": told, "request_id": request_id}

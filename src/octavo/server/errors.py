"""Turns every error into one answer: `{"error": {"message", "type", "param", "code"}}`, as the openai client reads it, or what
Anthropic's clients read on their paths."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pydantic
from starlette.exceptions import HTTPException
from starlette.responses import Response

from octavo.errors import NotFoundError, OctavoError, OverloadedError, RequestError, WorkerDiedError
from octavo.server.messages import failures

_PATH = re.compile(r"(?<![\w.:/])/(?:[\w.\-+@~]+/)+[\w.\-+@~]*|[A-Za-z]:\\[^\s'\"]+")
MAX_MESSAGE = 4000
"""Characters told of what is wrong with a request: a chat template may refuse one with all of its text."""
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class MethodNotAllowedError(RequestError):
    """The path exists, but not for this method."""

    status = 405
    kind = "MethodNotAllowedError"


class TooLargeError(RequestError):
    """The body is larger than the server reads."""

    status = 413
    kind = "RequestTooLargeError"


class HeadersTooLargeError(RequestError):
    """The request line and headers are larger than the server reads."""

    status = 431
    kind = "RequestTooLargeError"


class SlowRequestError(RequestError):
    """The client stopped sending its request."""

    status = 408
    kind = "RequestTimeoutError"


class InternalError(OctavoError):
    """Something nobody foresaw; the log has the traceback."""

    def __init__(self) -> None:
        super().__init__("internal error; the server's log says more")


def error_object(error: OctavoError, request_id: str, path: str = "") -> dict[str, Any]:
    """The body for `error` of a request to `path`; names the request, and no path of this machine."""
    message = error.message[:MAX_MESSAGE] if isinstance(error, RequestError) else public_cause(error.message)
    if failures.speaks_messages(path):
        return failures.messages_error(error, message, request_id)
    param = error.param if isinstance(error, RequestError) else None
    return {
        "error": {
            "message": f"{message} (request id: {request_id})",
            "type": error.kind,
            "param": param,
            "code": error.status,
        }
    }


def public_cause(message: str) -> str:
    """The first line of what went wrong inside, without paths: what a worker printed is for the log alone."""
    first = message.partition("\n")[0].removesuffix("; its last output:")
    return _PATH.sub("<path>", first)[:500]


def error_status(error: OctavoError, path: str) -> int:
    """The status of the answer for `error` of a request to `path`."""
    return failures.STATUS.get(error.status, error.status) if failures.speaks_messages(path) else error.status


def error_response(error: OctavoError, request_id: str, path: str = "") -> Response:
    """The HTTP answer for `error` of a request to `path`."""
    headers = {}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(max(1, min(120, error.retry_after_s)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = msgspec.json.encode(error_object(error, request_id, path))
    return Response(body, error_status(error, path), headers, media_type="application/json")


def not_accepted(error: WorkerDiedError) -> OverloadedError:
    """A request that the engine did not take because its worker is gone may be tried again elsewhere or later."""
    return OverloadedError(f"no worker: {error.message}", retry_after_s=5)


def from_http(error: HTTPException, path: str, method: str) -> OctavoError:
    """Starlette's own refusals: no such path, no such method."""
    if error.status_code == 404:
        return NotFoundError(f"there is no {path[:200]!r} here; /openapi.json lists what there is")
    if error.status_code == 405:
        return MethodNotAllowedError(f"{path[:200]!r} does not take {method[:20]}")
    return RequestError(str(error.detail))


def from_validation(error: pydantic.ValidationError) -> RequestError:
    """The first thing wrong with a body, by the name of its field."""
    first, *others = error.errors(include_url=False, include_context=False, include_input=False)
    where = ".".join(part for part in map(str, first["loc"]) if part.strip())[:200]  # some parts of unions have no name
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] == "json_invalid":
        return RequestError(f"the body is not JSON: {first['msg']}")
    if not where:
        return RequestError(f"the body: {first['msg']}{more}")
    param = str(first["loc"][0])
    return RequestError(f"{where}: {first['msg']}{more}", param=param)


def checked_id(sent: str, param: str) -> str:
    """`sent` if it can serve as a request id.

    Raises:
        RequestError: it is not 1 to 128 visible ASCII characters.
    """
    if not _REQUEST_ID.fullmatch(sent):
        raise RequestError(f"{param} must be 1 to 128 visible ASCII characters", param=param)
    return sent

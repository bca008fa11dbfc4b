"""Reads JSON bodies (bounded, typed, every fault told by the name of its field) and writes them."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import pydantic
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from octavo.errors import RequestError
from octavo.server.dispatch import ClientGone
from octavo.server.errors import TooLargeError, from_validation

Model = TypeVar("Model", bound=pydantic.BaseModel)

MAX_BODY_BYTES = 32 << 20
"""Room for a thousand prompts of several thousand token ids."""


async def read_body(request: Request, model: type[Model]) -> Model:
    """Raises:
    TooLargeError: more than MAX_BODY_BYTES.
    RequestError: not JSON, or a field is wrong; `param` names it.
    ClientGone: the client left before it had sent everything.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise RequestError(f"Content-Type must be application/json, got {kind[:100]!r}", param="Content-Type")
    body = await _read(request)
    try:
        return model.model_validate_json(body)
    except pydantic.ValidationError as exc:
        raise from_validation(exc) from None


async def _read(request: Request) -> bytearray:
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise _too_large()
    except ClientDisconnect:
        raise ClientGone from None
    return body


def _too_large() -> TooLargeError:
    return TooLargeError(f"the body has more than {MAX_BODY_BYTES} bytes; send fewer or shorter prompts in a call")


def json(body: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def body_schema(model: type[pydantic.BaseModel]) -> dict[str, Any]:
    """How /openapi.json describes a body read by `read_body`; `app.py` adds the models it refers to."""
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}

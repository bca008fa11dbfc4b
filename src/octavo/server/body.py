"""Bodies of requests: what all have in common, how their bytes are taken in, and what becomes of them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Mapping
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema
from starlette.requests import ClientDisconnect, Request

from octavo.answers import AnswerForms
from octavo.config import EngineConfig
from octavo.errors import NotFoundError, OctavoError, OverloadedError, RequestError
from octavo.server.dispatch import ClientGone
from octavo.server.errors import SlowRequestError, TooLargeError, from_validation
from octavo.server.unserved import REFUSED, Refusal, check_unserved, unknown_names
from octavo.text import ChatTemplate, DefaultSampling, Tokenizer

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MAX_BODY_BYTES = 32 << 20
"""Room for a thousand prompts of several thousand token ids."""
MAX_RECEIVING_BYTES = 512 << 20
"""Most bytes of bodies that have not arrived whole; one body alone is always taken."""
BODY_PAUSE_S = 60.0
"""How long a client may send nothing in the middle of a body."""


class Preparable(Protocol[T_co]):
    """Turns into a `T` that is small enough to be handled beside other requests."""

    def prepare(self, reader: BodyReader) -> T_co:
        """Do all work that grows with the body.

        Raises:
            OctavoError: the request cannot be served.
        """
        ...


class Body(BaseModel):
    """The fields of a request; each kind of request is `Preparable`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", allow_inf_nan=False)

    refused: ClassVar[Mapping[str, Refusal]] = REFUSED
    """Names that the class does not have, and that would change the answer."""

    model: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_set(cls, data: Any) -> Any:
        """Clients send null for what they do not set, so it stands for the default in every field that has one."""
        if not isinstance(data, dict):
            return data
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: value for name, value in data.items() if value is not None or name not in optional}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describes in /openapi.json what `_null_is_not_set` allows."""
        described = handler.resolve_ref_schema(handler(schema))
        for name, field in cls.model_fields.items():
            rule = described["properties"][name]
            if not field.is_required() and {"type": "null"} not in rule.get("anyOf", []):
                title = {"title": rule.pop("title")} if "title" in rule else {}
                default = {"default": rule.pop("default")} if "default" in rule else {}
                described["properties"][name] = {"anyOf": [rule, {"type": "null"}], **default, **title}
        return described

    def checked_request_id(self) -> str | None:
        """The id that the body gives to its request.

        Raises:
            RequestError: it cannot be one.
        """
        return None


@dataclasses.dataclass(slots=True)
class Reading(Generic[T]):
    """Holds what a body was turned into: a `result`, or the `error` that answers it."""

    request_id: str | None = None
    unknown: frozenset[str] = frozenset()
    result: T | None = None
    error: OctavoError | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BodyReader:
    """Turns bytes into a `Reading`: a function of nothing but these fields, so that any process can do it."""

    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    default_sampling: DefaultSampling
    engine_config: EngineConfig
    model_names: tuple[str, ...]
    forms: AnswerForms = AnswerForms()

    @property
    def most_tokens(self) -> int:
        """Tokens that a request may have, prompt and answer together."""
        return self.engine_config.max_request_tokens

    def read(self, model: type[Preparable[T]], raw: bytes | bytearray) -> Reading[T]:
        """Parse, check and prepare; what is wrong with the body is in the reading, what is wrong with us is raised."""
        reading: Reading[T] = Reading()
        try:
            body = _parse(model, raw)
            reading.request_id = body.checked_request_id()
            self.check_model(body.model)
            extra = body.model_extra or {}
            check_unserved(extra, body.refused)
            reading.unknown = unknown_names(extra, body.refused)
            reading.result = body.prepare(self)
        except OctavoError as error:
            reading.error = error
        return reading

    def check_model(self, name: str | None) -> str:
        """The name to answer with.

        Raises:
            NotFoundError: the model is not served here.
        """
        if name is None:
            return self.model_names[0]
        if name not in self.model_names:
            served = ", ".join(self.model_names)
            raise NotFoundError(f"the model {name[:200]!r} is not served here; served: {served}", param="model")
        return name


class BodyIntake:
    """Takes in the bodies of requests; what all of them hold at a time is bounded."""

    def __init__(self, most_bytes: int = MAX_RECEIVING_BYTES, pause_s: float = BODY_PAUSE_S) -> None:
        self._most_bytes, self._pause_s = most_bytes, pause_s
        self._held = 0
        """Bytes of bodies that have not arrived whole."""

    async def receive(self, request: Request) -> bytes:
        """Raises:
        TooLargeError: more than MAX_BODY_BYTES.
        RequestError: it is not said to be JSON, or is compressed.
        SlowRequestError: nothing came for `pause_s` seconds.
        OverloadedError: too much is being received.
        ClientGone: the client left before it had sent everything.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            raise RequestError(f"Content-Type must be application/json, got {kind[:100]!r}", param="Content-Type")
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("identity", ""):
            raise RequestError(
                f"Content-Encoding is {coding[:100]!r}, which is not read here: send the body uncompressed",
                param="Content-Encoding",
            )
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
            raise _too_large()
        chunks: list[bytes] = []
        size = 0
        stream = request.stream()
        try:
            while chunk := await self._next(stream):
                chunks.append(chunk)
                size += len(chunk)
                self._held += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise _too_large()
                if self._held > self._most_bytes and self._held > size:
                    raise OverloadedError(f"{self._held} bytes of unfinished bodies are held", retry_after_s=10)
        except ClientDisconnect:
            raise ClientGone from None
        finally:
            self._held -= size
        return b"".join(chunks)

    async def _next(self, stream: AsyncGenerator[bytes]) -> bytes:
        """The next bytes of a body; empty at its end."""
        try:
            async with asyncio.timeout(self._pause_s):
                async for chunk in stream:
                    if chunk:
                        return chunk
        except TimeoutError:
            raise SlowRequestError(f"no byte of the body came for {self._pause_s:g} s") from None
        return b""


def body_schema(model: type) -> dict[str, Any]:
    """How /openapi.json describes a body; `app.py` adds the models it refers to."""
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}


def _parse(model: Any, raw: bytes | bytearray) -> Any:
    try:
        return model.model_validate_json(raw)
    except pydantic.ValidationError as exc:
        raise from_validation(exc) from None


def _too_large() -> TooLargeError:
    return TooLargeError(f"the body has more than {MAX_BODY_BYTES} bytes; send fewer or shorter prompts in a call")

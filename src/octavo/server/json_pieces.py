"""JSON in pieces: no step of making or sending a large answer holds up the others for long."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Pieces: TypeAlias = list[bytes]
"""An answer, cut so that each piece is written in a moment."""

PIECE_BYTES = 1 << 20
PIECE_ITEMS = 1 << 15
RAW_ITEMS = 256
"""Items of a list that are encoded at once: some have dozens of parts."""

encode = msgspec.json.Encoder().encode


def json(body: Any, status: int = 200) -> Response:
    """A small JSON answer."""
    return Response(encode(body), status, media_type="application/json")


def list_pieces(items: Sequence[Any]) -> Pieces:
    """The JSON array of `items`."""
    parts = [encode(list(items[at : at + PIECE_ITEMS]))[1:-1] for at in range(0, len(items), PIECE_ITEMS)]
    commas = [b",", b""]
    return [b"[", *(part + commas[number == len(parts)] for number, part in enumerate(parts, start=1)), b"]"]


def raw_list(items: Iterable[Any]) -> msgspec.Raw:
    """The JSON array of `items`, which need not all be there at once."""
    rest = iter(items)
    parts = []
    while some := list(itertools.islice(rest, RAW_ITEMS)):
        parts.append(encode(some)[1:-1])
    return msgspec.Raw(b"[" + b",".join(parts) + b"]")


def joined(pieces: Pieces) -> Pieces:
    """One piece, if they are small."""
    return [b"".join(pieces)] if sum(map(len, pieces)) <= PIECE_BYTES else pieces


def text_pieces(text: bytes) -> Pieces:
    """`text`, cut."""
    return [text[at : at + PIECE_BYTES] for at in range(0, len(text), PIECE_BYTES)]


class JsonPieces(Response):
    """Sends pieces one after the other, each when the client has taken most of those before."""

    media_type = "application/json"

    def __init__(self, pieces: Pieces, status: int = 200) -> None:
        super().__init__(status_code=status)
        self.headers["content-length"] = str(sum(map(len, pieces)))
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)  # a client that takes it all at once would leave nobody else a turn
        await send({"type": "http.response.body", "body": b""})

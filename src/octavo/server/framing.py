"""Finds where the body of an HTTP request ends, so that what follows is known to be the next head (RFC 9112, 6 and 7)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

from octavo.errors import RequestError
from octavo.server.errors import HeadersTooLargeError

MAX_LINE_BYTES = 64 << 10
"""Of the line before a chunk, and of the fields behind the last one, all together."""
_SIZE = re.compile(rb"[0-9a-fA-F]*")
_SHORT_CHUNKS = re.compile(
    rb"(?:%b)++" % b"|".join(rb"0*%x[^0-9a-f\n][^\n]*\n.{%d}\r\n" % (size, size) for size in range(1, 16)),
    re.IGNORECASE | re.DOTALL,
)
"""Chunks of less than 16 bytes, of which there may be tens of thousands in what is received at once."""
_CHUNK_LINE = re.compile(rb"0*([1-9a-fA-F][0-9a-fA-F]{0,15})[^0-9a-fA-F\n][^\n]*\n")
"""The line before a chunk that is not empty; others are read with care."""
_FIELDS = re.compile(rb"(?:[^\r\n][^\n]*\n)++")
"""Lines behind the last chunk, up to the empty one."""
_LINE_END = 2
"""Bytes behind the data of a chunk."""
_LINE_BYTES = 32
"""Kept of a line, without leading zeros: the parser takes no size of more than 16 digits."""
_EMPTY_LINES = (b"\r\n", b"\n")


class Framing(Protocol):
    """Tells a body from what follows it. What is wrong with its form is left to the parser, which refuses it."""

    def reach(self, data: bytes, at: int) -> int:
        """The end of bytes of the body in `data`, of which the first is at `at`; never beyond the body, and as far as
        there are any: each step of the parser costs.

        Raises:
            RequestError, HeadersTooLargeError: more than MAX_LINE_BYTES of what is no data.
        """
        ...


def framing(headers: Iterable[tuple[bytes, bytes]]) -> Framing:
    """The framing that `headers`, with names in small letters, announce."""
    fields = dict(headers)
    return _Chunks() if b"transfer-encoding" in fields else _Length(int(fields.get(b"content-length", b"0")))


class _Length:
    """A body of so many bytes."""

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes

    def reach(self, data: bytes, at: int) -> int:
        if not self._left:
            return len(data)
        end = min(at + self._left, len(data))
        self._left -= end - at
        return end


class _Chunks:
    """A body in chunks, each behind a line with its size; the last one is empty, and fields and an empty line follow it."""

    def __init__(self) -> None:
        self._left = 0
        """Bytes of a chunk, and of its line end."""
        self._line = b""
        """The first bytes of a line that has not come whole."""
        self._seen = 0
        """Bytes of that line, or of the fields behind the last chunk."""
        self._past_chunks = False
        self._ended = False

    def reach(self, data: bytes, at: int) -> int:
        if self._ended:
            return len(data)
        while at < len(data) and not self._ended:
            if self._left:
                end = min(at + self._left, len(data))
                self._left -= end - at
            elif self._line or (end := self._skip_whole(data, at)) == at:
                end = data.find(b"\n", at) + 1 or len(data)
                self._take_line(data[at:end])
            at = end
        return at

    def _skip_whole(self, data: bytes, at: int) -> int:
        """The end of the chunks, or of the fields behind them, that lie whole in `data`."""
        if self._past_chunks:
            fields = _FIELDS.match(data, at)
            end = at if fields is None else fields.end()
            self._count(end - at)
            return end
        while True:
            if (short := _SHORT_CHUNKS.match(data, at)) is not None:
                at = short.end()
            line = _CHUNK_LINE.match(data, at)
            end = len(data) + 1 if line is None else line.end() + int(line[1], 16) + _LINE_END
            if end > len(data):
                return at
            at = end

    def _take_line(self, piece: bytes) -> None:
        """Take in a line, or a part of one."""
        self._count(len(piece))
        line = self._line + piece
        if not piece.endswith(b"\n"):
            self._line = line.lstrip(b"0")[:_LINE_BYTES] or b"0"
            return
        self._line = b""
        if self._past_chunks:
            self._ended = line in _EMPTY_LINES
            return
        self._seen = 0
        digits = _SIZE.match(line)
        size = int(digits[0] or b"0", 16) if digits is not None else 0
        self._past_chunks = size == 0
        self._left = size + _LINE_END if size else 0

    def _count(self, num_bytes: int) -> None:
        self._seen += num_bytes
        if self._seen <= MAX_LINE_BYTES:
            return
        if self._past_chunks:
            raise HeadersTooLargeError(f"the fields behind the body have more than {MAX_LINE_BYTES} bytes")
        raise RequestError(f"the line before a chunk of the body has more than {MAX_LINE_BYTES} bytes")

"""Finds where the body of an HTTP request ends, so that what follows is known to be the next head (RFC 9112, 6 and 7)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

_SIZE = re.compile(rb"[0-9a-fA-F]*")
_LINE_END = 2
"""Bytes behind the data of a chunk."""
_SIZE_BYTES = 32
"""Of the line that begins a chunk, without leading zeros: the parser takes no size of more than 16 digits."""


class Framing(Protocol):
    """Tells a body from what follows it. What is wrong with its form is left to the parser, which refuses it."""

    def reach(self, data: bytes, at: int) -> int:
        """The end of bytes of the body in `data`, of which the first is at `at`; never beyond the body."""
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
    """A body in chunks, each behind a line with its size; the last one is empty, and lines follow it."""

    def __init__(self) -> None:
        self._left = 0
        self._line = b""
        self._past_chunks = False

    def reach(self, data: bytes, at: int) -> int:
        if self._left:
            end = min(at + self._left, len(data))
            self._left -= end - at
            return end
        end = data.find(b"\n", at) + 1 or len(data)
        if not self._past_chunks:
            self._read_size(data[at:end])
        return end

    def _read_size(self, piece: bytes) -> None:
        """Take in a line that begins a chunk, or a part of one."""
        self._line = (self._line + piece).lstrip(b"0")[:_SIZE_BYTES]
        if not piece.endswith(b"\n"):
            return
        digits = _SIZE.match(self._line)
        size = int(digits[0] or b"0", 16) if digits is not None else 0
        self._line = b""
        self._past_chunks = size == 0
        self._left = size + _LINE_END if size else 0

"""HTTP as uvicorn parses it, with what it leaves to others: a bound on headers, upgrades, and HTTP/1.0 clients."""

from __future__ import annotations

import msgspec
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from octavo.server.errors import HeadersTooLargeError, error_object

MAX_HEAD_BYTES = 64 << 10
"""Of a request line and its headers; what browsers, proxies and clients send is under a tenth of it."""
_UPGRADE = b"upgrade:"


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a head of bounded size, without upgrades, and with answers that HTTP/1.0 clients can read.

    The parser stops at the end of the headers of a request that offers another protocol (`Upgrade: h2c`, as Java's client
    does on every first request), and its body is lost. A server may ignore the offer (RFC 9110, 7.8), so that line is left
    out.
    """

    _in_head = True
    """The next bytes belong to a request line or to headers."""
    _head_bytes = 0
    _line_begins = True
    _held = b""
    """The first bytes of what may be the line of an upgrade."""

    def data_received(self, data: bytes) -> None:
        while data and self._in_head and not self.transport.is_closing():
            end = data.find(b"\n") + 1 or len(data)
            self._take_head(data[:end])
            data = data[end:]
        if data and not self.transport.is_closing():
            super().data_received(data)

    def _take_head(self, piece: bytes) -> None:
        """Parse a line, or a part of one, of a head."""
        self._head_bytes += len(piece)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
            return
        piece, self._held = self._held + piece, b""
        ends = piece.endswith(b"\n")
        if self._line_begins and _UPGRADE.startswith(piece[: len(_UPGRADE)].lower()):
            self._held = b"" if ends else piece
            return
        self._line_begins = ends
        super().data_received(piece)

    def _refuse_head(self) -> None:
        error = HeadersTooLargeError(f"the headers have more than {MAX_HEAD_BYTES} bytes")
        body = msgspec.json.encode(error_object(error, "none"))
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()
        # The cycle's task has not begun yet; uvicorn offers no other way to choose how it writes.
        if self.scope["http_version"] == "1.0" and type(self.cycle) is RequestResponseCycle:
            self.cycle.__class__ = _UnchunkedCycle

    def on_message_complete(self) -> None:
        self._in_head, self._head_bytes, self._line_begins = True, 0, True
        super().on_message_complete()


class _UnchunkedCycle(RequestResponseCycle):
    """Writes bodies as they are; uvicorn closes the connection of an HTTP/1.0 client after its answer."""

    ends_with_connection = False
    """The answer has begun without a length."""

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", [])}
            if b"content-length" not in names:
                self.chunked_encoding = False
                self.ends_with_connection = True
        elif message["type"] == "http.response.body" and self.ends_with_connection:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)

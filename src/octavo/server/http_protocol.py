"""HTTP/1.0 clients, which know no chunks: an answer whose length is not known ends with the connection."""

from __future__ import annotations

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with answers that HTTP/1.0 clients can read."""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        # The cycle's task has not begun yet; uvicorn offers no other way to choose how it writes.
        if self.scope["http_version"] == "1.0" and type(self.cycle) is RequestResponseCycle:
            self.cycle.__class__ = _UnchunkedCycle


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

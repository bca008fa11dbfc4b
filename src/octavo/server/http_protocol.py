"""HTTP as uvicorn parses it, with what it leaves to others: bounds on headers and trailers, upgrades, HTTP/1.0 clients."""

from __future__ import annotations

import asyncio
import http

import msgspec
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from octavo.errors import OctavoError, RequestError
from octavo.server.errors import HeadersTooLargeError, SlowRequestError, error_object
from octavo.server.framing import Framing, framing
from octavo.server.half_closed import is_reset, probe

MAX_HEAD_BYTES = 64 << 10
"""Of a request line and its headers; what browsers, proxies and clients send is under a tenth of it."""
HEAD_S = 60.0
"""How long a connection may take to send them; an idle one after an answer ends sooner, by uvicorn's keep-alive."""
LOOK_S = 0.05
"""How often to look whether a client that sends no more still reads."""
_UPGRADE = b"upgrade:"


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with fields of bounded size, without upgrades, and with answers that HTTP/1.0 clients can read.

    The parser stops at the end of the headers of a request that offers another protocol (`Upgrade: h2c`, as Java's client
    does on every first request), and its body is lost. A server may ignore the offer (RFC 9110, 7.8), so that line is left
    out. `CONNECT` makes it stop too, and is refused. The head of the next request may come in one piece with a body, so each
    body is parsed up to its end. What has no form ends a connection, but takes no answer from the requests before it, whose answers
    uvicorn drops.
    Fields behind a body are passed over: a proxy may have let through there what it takes out of a head.
    """

    _in_head = True
    """The next bytes belong to a request line or to headers."""
    _head_bytes = 0
    _line_begins = True
    _held = b""
    """The first bytes of what may be the line of an upgrade."""
    _refusal: OctavoError | None = None
    """Of a request that has its form: to be told instead of the parser's."""
    _last_answer: bytes | None = None
    """To a request without form, behind which nothing is looked at, until those before it have their answers."""
    _framing: Framing
    """Of the body, once the head before it is complete."""
    _head_timer: asyncio.TimerHandle | None = None
    _look_timer: asyncio.TimerHandle | None = None
    """While the client sends no more: when to look whether it still reads."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._look_timer is not None:
            self._look_timer.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Let a client that sends no more have the answer that it waits for; False closes the connection."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or (cycle.more_body and self._last_answer is None):
            return False
        if self.transport.get_extra_info("ssl_object") is not None:
            return False  # TLS has no half-closed connections here: its end is the end of both directions
        if self._last_answer is None:
            cycle.keep_alive = False
        if not self.pipeline and not cycle.more_body:  # else the answer to an earlier request is being written
            beside = probe(cycle)
            if beside is None:
                return False
            self.transport.write(beside)
        self._look()
        return True

    def _look(self) -> None:
        """End the connection as soon as the client has reset it: nothing is read that would tell."""
        if is_reset(self.transport.get_extra_info("socket")):
            self.transport.abort()
        else:
            self._look_timer = self.loop.call_later(LOOK_S, self._look)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._await_head()
        at = 0
        while at < len(data) and self._last_answer is None and not self.transport.is_closing():
            if self._in_head:
                end = data.find(b"\n", at) + 1 or len(data)
                self._take_head(data[at:end])
            else:
                end = self._take_body(data, at)
            at = end

    def _take_body(self, data: bytes, at: int) -> int:
        """Parse bytes of a body; where they end."""
        try:
            end = self._framing.reach(data, at)
        except RequestError as error:
            self._end(error)
            return len(data)
        super().data_received(data[at:end])
        return end

    def _take_head(self, piece: bytes) -> None:
        """Parse a line, or a part of one, of a head."""
        self._head_bytes += len(piece)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._end(HeadersTooLargeError(f"the headers have more than {MAX_HEAD_BYTES} bytes"))
            return
        piece, self._held = self._held + piece, b""
        ends = piece.endswith(b"\n")
        if self._line_begins and _UPGRADE.startswith(piece[: len(_UPGRADE)].lower()):
            self._held = b"" if ends else piece
            return
        self._line_begins = ends
        super().data_received(piece)

    def _end(self, error: OctavoError) -> None:
        """Close the connection behind the answers to the requests that came before, and behind one that tells what is wrong with the
        form of this one, unless its own has begun."""
        refusal = self._refusal_of(error)
        if self._in_head:
            waits = self.cycle is not None and not self.cycle.response_complete
        elif waits := bool(self.pipeline):
            self.pipeline.popleft()  # this request, whose body never comes whole
        elif self.cycle.response_started:
            refusal = b""
        if waits:
            self._last_answer = refusal
        else:
            self._close_with(refusal)

    def _close_with(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.transport.close()

    def on_response_complete(self) -> None:
        is_last = not self.pipeline
        super().on_response_complete()
        if is_last and self._last_answer is not None and not self.transport.is_closing():
            self._close_with(self._last_answer)

    def send_400_response(self, msg: str) -> None:
        """The parser's refusal of what has no form, or what a callback of its refused."""
        self._end(self._refusal or RequestError(msg.removesuffix(".")))

    def _refusal_of(self, error: OctavoError) -> bytes:
        path = "" if self._in_head else self.scope["path"]
        body = msgspec.json.encode(error_object(error, "none", path))
        phrase = http.HTTPStatus(error.status).phrase.encode()
        return (
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (error.status, phrase, len(body), body)
        )

    def _await_head(self) -> None:
        """Begin to count the seconds that a head may take, unless that was begun."""
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self._give_up_head)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up_head(self) -> None:
        """Close a connection that nobody uses; it would keep a descriptor from others."""
        self._head_timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._await_head()  # the request before is still answered
        elif self._head_bytes:
            self._end(SlowRequestError(f"the headers did not come within {HEAD_S:g} s"))
        else:
            self.transport.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            self._refusal = RequestError("CONNECT is not taken: this server is no proxy")
            raise self._refusal
        super().on_headers_complete()  # raises for a target that is none: nothing of its request is kept then
        self._in_head = False
        self._framing = framing(self.headers)
        self._stop_waiting()
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

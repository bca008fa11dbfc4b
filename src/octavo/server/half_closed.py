"""Tells a client that has only closed its sending side from one that is gone.

Both look alike at first: no more bytes come. HTTP says that the first still wants its answer (RFC 9112, 9.6); for the
second, to compute on would be waste. What is written tells them apart: the first reads it, the second resets the
connection. So something is written that no client takes for a part of the answer.
"""

from __future__ import annotations

import select
import socket

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
"""Every client passes over it before an answer (RFC 9110, 15.2)."""
COMMENT = b":\n\n"
"""The same in an event stream."""


def probe(cycle: RequestResponseCycle) -> bytes | None:
    """Returns what is to be written beside the answer of `cycle`: nothing where the answer itself tells; None if nothing can be."""
    if not cycle.response_started:
        return CONTINUE if cycle.scope["http_version"] == "1.1" else None
    if not cycle.chunked_encoding:
        return b""
    return b"%x\r\n%b\r\n" % (len(COMMENT), COMMENT)  # only event streams have no length


def is_reset(connection: socket.socket) -> bool:
    """Whether the client has said that it reads no more."""
    poll = select.poll()
    poll.register(connection.fileno(), 0)
    return bool(poll.poll(0))

"""The middleware that every HTTP request passes: it gets an id, shows its key, is timed, logged, and answered whatever happens."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import logging
import secrets
import time
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.errors import AuthenticationError, OctavoError
from octavo.server.context import Server
from octavo.server.dispatch import ClientGone
from octavo.server.errors import InternalError, checked_id, error_response
from octavo.server.messages.failures import speaks_messages

log = logging.getLogger(__name__)
access_log = logging.getLogger("octavo.access")

OPEN_PATHS = frozenset(
    {"/health", "/health_generate", "/ready", "/readyz", "/ping", "/version", "/metrics", "/load", "/", "/docs"}
)
"""Probes, and pages that ask for the key themselves: they need none."""
METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"})
_PROCESS, _numbers = secrets.token_hex(8), itertools.count(1)
"""Ids count from a random start: asking the system for each would cost a turn of the interpreter's lock."""
CLIENT_GONE_STATUS = 499
"""What the log and the metrics say of a request whose client left; nobody receives it."""


class RequestMiddleware:
    """Wraps the application; one object for all requests, one `Exchange` for each."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server
        self._root = server.context.settings.root_path
        self._keys = Keys(server.context.settings.api_key)
        self._quiet = frozenset(server.context.settings.disable_access_log_for_endpoints)
        self._logs = not server.context.settings.disable_uvicorn_access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        scope = self._without_root(scope)
        if method == "HEAD":
            scope = {**scope, "method": "GET"}  # it is answered as a GET; whoever wrote the other scope sends no body
        exchange = Exchange(scope, send, self._server.context.settings.enable_request_id_headers)
        try:
            exchange.read_id()
            if scope["path"] not in OPEN_PATHS:
                self._keys.check(exchange.headers)
            await self._app(scope, receive, exchange.send)
        except ClientGone:
            exchange.status = CLIENT_GONE_STATUS
        except OctavoError as error:
            await exchange.answer(error, receive)
        except Exception:
            log.exception("request %s failed", exchange.request_id)
            await exchange.answer(InternalError(), receive)
        finally:
            self._note(exchange, scope, method)

    def _without_root(self, scope: Scope) -> Scope:
        """The request as it is behind a proxy that takes the root path off: some leave it on."""
        if not self._root:
            return scope
        path: str = scope["path"]
        inside = path == self._root or path.startswith(f"{self._root}/")
        return {**scope, "path": path[len(self._root) :] or "/" if inside else path, "root_path": self._root}

    def _note(self, exchange: Exchange, scope: Scope, method: str) -> None:
        seconds = time.monotonic() - exchange.start_s
        route = scope.get("route")
        handler = getattr(route, "path", "none")
        method = method if method in METHODS else "OTHER"
        self._server.context.metrics.on_http(handler, method, exchange.status, seconds)
        if self._logs and scope["path"] not in self._quiet:
            host, port = scope.get("client") or ("", 0)
            path = scope.get("raw_path", b"").decode("latin-1")[:500]
            access_log.info(
                '%s:%s "%s %s" %d %.1f ms %s',
                host,
                port,
                method,
                path,
                exchange.status,
                1e3 * seconds,
                exchange.request_id,
            )


class Exchange:
    """One HTTP request on its way through."""

    def __init__(self, scope: Scope, send: Send, shows_id: bool) -> None:
        self.scope = scope
        self.headers = Headers(scope=scope)
        self.start_s = time.monotonic()
        self.status = 500
        """Of the answer; 500 until one has begun."""
        self._send = send
        self._shows_id = shows_id
        self._begun = False
        self.state = scope.setdefault("state", {})
        self.state["request_id"] = f"{_PROCESS}{next(_numbers):08x}"

    @property
    def request_id(self) -> str:
        return str(self.state["request_id"])

    def read_id(self) -> None:
        """Take the client's id, if it sent one.

        Raises:
            RequestError: it is not 1 to 128 visible ASCII characters.
        """
        sent = self.headers.get("x-request-id")
        if sent is not None:
            self.state["request_id"] = checked_id(sent, "X-Request-Id")

    async def send(self, message: Message) -> None:
        """Pass a message on; the first one gets the request id."""
        if message["type"] == "http.response.start":
            self._begun = True
            self.status = message["status"]
            if self._shows_id:
                MutableHeaders(scope=message)["X-Request-Id"] = self.request_id
                if speaks_messages(self.scope["path"]):
                    MutableHeaders(scope=message)["request-id"] = self.request_id  # where their clients look
        await self._send(message)

    async def answer(self, error: OctavoError, receive: Receive) -> None:
        """Tell `error`, unless an answer has begun: then the connection can only be closed, by raising."""
        if self._begun:
            raise error
        await error_response(error, self.request_id, self.scope["path"])(self.scope, receive, self.send)


class Keys:
    """The API keys, compared in a time that tells nothing about them."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def check(self, headers: Headers) -> None:
        """Raises AuthenticationError unless one of the headers bears a key, or none is asked for."""
        if not self._digests:
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        sent = [bearer if scheme.lower() == "bearer" else "", headers.get("x-api-key", "")]
        digests = [_digest(key.strip()) for key in sent if key.strip()]
        matches = [hmac.compare_digest(digest, known) for digest in digests for known in self._digests]
        if not any(matches):
            raise AuthenticationError(
                "a valid API key is needed: send it as 'Authorization: Bearer <key>' or 'x-api-key: <key>'"
            )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()

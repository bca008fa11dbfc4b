"""Where the server listens: a port or a Unix socket of its own, in plain text or in TLS."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

from octavo.config import Settings
from octavo.errors import ConfigError

BACKLOG = 4096
"""Connections that may wait to be accepted."""
_OF_THE_PORT = (errno.EADDRINUSE, errno.EACCES, errno.EPERM)
"""Errors for which another port is the remedy; for the others it is another host."""


@contextlib.contextmanager
def listener(settings: Settings) -> Iterator[socket.socket]:
    """Meanwhile, has a socket where `settings` say, which refuses connections until `listen`.

    Raises:
        ConfigError: the address is taken, or not of this machine.
    """
    if settings.uds is None:
        with bind(settings.host, settings.port) as bound:
            yield bound
        return
    path = Path(settings.uds)
    with bind_unix(path) as bound:
        beside = Path(bound.getsockname())
        ours = beside.stat()
        try:
            yield bound
        finally:
            for name in (path, beside):
                with contextlib.suppress(OSError):
                    if os.path.samestat(name.stat(), ours):
                        name.unlink()


def bind(host: str, port: int) -> socket.socket:
    """Make a socket that has `host` and `port` (0: any free one) for itself, and refuses connections until it listens.

    So a port that is taken is noticed before a model is loaded, and a load balancer sees nobody before one is.

    Raises:
        ConfigError: the address is taken or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as opened:
        try:
            bound = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            _claim(bound, (host, port))
        except (OSError, ValueError, TypeError) as exc:  # no OSError: a name that no resolver could be asked for
            raise _cannot_listen((host, port), exc) from exc
        opened.pop_all()
    bound.set_inheritable(False)
    return bound


def bind_unix(path: Path) -> socket.socket:
    """Make a socket that is to listen at `path`; until then it has the name of this process behind that.

    Raises:
        ConfigError: somebody listens there, something else is there, or there can be no socket.
    """
    _require_nobody(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    beside = f"{path.absolute()}.{os.getpid()}"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        bound.bind(beside)
    except OSError as exc:
        bound.close()
        raise ConfigError("uds", f"cannot make a socket at {path}: {exc.strerror or exc}") from exc
    bound.set_inheritable(False)
    return bound


def listen(bound: socket.socket, path: str | None = None) -> None:
    """Let connections in; a Unix socket gets the name `path`.

    Those to a port inherit SO_REUSEADDR, without which they would keep the next server from its port.

    Raises:
        ConfigError: somebody else listens on the address by now.
    """
    if path is not None:
        _require_nobody(Path(path))
    try:
        if path is None:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.listen(BACKLOG)
        if path is not None:
            os.rename(bound.getsockname(), path)  # takes the place of one that nobody listens at
    except OSError as exc:
        raise _cannot_listen(bound.getsockname(), exc) from exc


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """What connections are encrypted with; None: nothing.

    Raises:
        ConfigError: a file is missing or is not what it should be, or a setting lacks the one that it needs.
    """
    if settings.ssl_certfile is None:
        for name in ("ssl_keyfile", "ssl_ca_certs"):
            if getattr(settings, name) is not None:
                raise ConfigError(name, "needs --ssl-certfile, the certificate that clients are shown")
        if settings.ssl_cert_reqs:
            raise ConfigError("ssl_cert_reqs", "needs --ssl-certfile: only connections in TLS have certificates")
        return None
    if settings.ssl_cert_reqs not in (0, 1, 2):
        raise ConfigError("ssl_cert_reqs", f"must be 0, 1 or 2, got {settings.ssl_cert_reqs}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password=_no_password)
    except OSError as exc:
        raise ConfigError("ssl_certfile", f"cannot be read with its key: {exc.strerror or exc}") from exc
    if settings.ssl_cert_reqs and settings.ssl_ca_certs is None:
        raise ConfigError("ssl_cert_reqs", "needs --ssl-ca-certs, which says whose certificates clients may show")
    if settings.ssl_ca_certs is not None:
        try:
            context.load_verify_locations(settings.ssl_ca_certs)
        except OSError as exc:
            raise ConfigError("ssl_ca_certs", f"cannot be read: {exc.strerror or exc}") from exc
    context.verify_mode = ssl.VerifyMode(settings.ssl_cert_reqs)
    return context


def _no_password() -> str:
    """Else OpenSSL would ask at the terminal, where nobody may be."""
    raise ConfigError("ssl_keyfile", "is encrypted; give one that is not, readable by this user alone")


def _require_nobody(path: Path) -> None:
    """Raises ConfigError if somebody listens at `path`, or something is there that is no socket."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError("uds", f"{path} is there, and is no socket; name another file")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
            raise ConfigError("uds", f"somebody listens at {path}; name another file")


def _claim(bound: socket.socket, address: tuple[str, int]) -> None:
    """Bind so that nobody else can.

    With SO_REUSEADDR two may bind as long as neither listens. Without it, connections that a server before us has just
    closed are in the way: only then it is set.
    """
    try:
        bound.bind(address)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            raise
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)


def _cannot_listen(address: tuple[str, int] | str, error: Exception) -> ConfigError:
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(address, str):
        return ConfigError("uds", f"cannot listen at {address}: {reason}; choose another with --uds")
    host, port = address
    if getattr(error, "errno", None) in _OF_THE_PORT:
        return ConfigError("port", f"cannot listen on {host}:{port}: {reason}; choose another with --port")
    return ConfigError(
        "host", f"cannot listen on {host!r}: {reason}; choose a name or an address of this machine with --host"
    )

"""Where the server listens: a Unix socket, TLS with a certificate made here, and behind a proxy."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from octavo.config import Settings
from octavo.errors import ConfigError
from octavo.server.listening import bind_unix, listen, listener, tls_context
from server.harness import running
from warm.client import WarmPopen

SCRIPT = Path(__file__).with_name("serve_mock.py")
QUESTION = {"prompt": [1], "max_tokens": 9, "ignore_eos": True}


@contextmanager
def process(**settings: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and what it says when it is ready."""
    options = {"worker": {"delay_s": 0.01}, "settings": {"host": "127.0.0.1", "port": 0, **settings}}
    command = [sys.executable, str(SCRIPT), json.dumps(options)]
    with WarmPopen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield child, child.stdout.readline()
        finally:
            child.kill()


def streamed(client: httpx.Client) -> str:
    with client.stream("POST", "/v1/completions", json={**QUESTION, "stream": True}) as answer:
        assert answer.status_code == 200
        return "".join(answer.iter_text())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two self-signed certificates, of the server and of a client, each with its key."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server", "client"):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def trusting(folder: Path, *, shows: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "server.pem"))
    if shows is not None:
        context.load_cert_chain(folder / f"{shows}.pem", folder / f"{shows}.key")
    return context


def test_answers_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "octavo.sock"
    with process(uds=str(path)) as (child, said):
        assert str(path) in said
        assert [name.name for name in tmp_path.iterdir()] == ["octavo.sock"]
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://x", timeout=60) as client:
            assert streamed(client).endswith("data: [DONE]\n\n")
            assert client.get("/health").status_code == 200
        with pytest.raises(ConfigError, match="listens"):
            bind_unix(path)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=60) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_socket_of_a_server_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "octavo.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listener(Settings(uds=str(path))) as bound, socket.socket(socket.AF_UNIX) as client:
        with pytest.raises(ConnectionRefusedError):
            client.connect(str(path))
        listen(bound, str(path))
        client.connect(str(path))
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "octavo.sock"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="no socket"), listener(Settings(uds=str(path))):
        pass
    assert path.read_text() == "precious"
    with pytest.raises(ConfigError, match="uds"), listener(Settings(uds=str(tmp_path / "missing" / "x"))):
        pass


def test_answers_in_tls(certificates: Path) -> None:
    files = {"ssl_certfile": str(certificates / "server.pem"), "ssl_keyfile": str(certificates / "server.key")}
    with process(**files) as (child, said):
        url = said.split()[3].removesuffix("/v1")
        assert url.startswith("https://")
        with httpx.Client(base_url=url, verify=trusting(certificates), timeout=60) as client:
            assert streamed(client).endswith("data: [DONE]\n\n")
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, verify=ssl.create_default_context())
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=60) == 0


def test_a_client_must_show_its_certificate_where_it_is_needed(certificates: Path) -> None:
    files = {"ssl_certfile": str(certificates / "server.pem"), "ssl_keyfile": str(certificates / "server.key")}
    asked = {"ssl_ca_certs": str(certificates / "client.pem"), "ssl_cert_reqs": 2}
    with process(**files, **asked) as (_, said):
        url = said.split()[3].removesuffix("/v1")
        assert httpx.get(f"{url}/version", verify=trusting(certificates, shows="client")).status_code == 200
        for shows in (None, "server"):
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{url}/version", verify=trusting(certificates, shows=shows))


@pytest.mark.parametrize(
    ("names", "setting"),
    [
        ({"ssl_keyfile": "server.key"}, "ssl_keyfile"),
        ({"ssl_ca_certs": "server.pem"}, "ssl_ca_certs"),
        ({"ssl_certfile": "missing.pem"}, "ssl_certfile"),
        ({"ssl_certfile": "server.pem", "ssl_keyfile": "client.key"}, "ssl_certfile"),
        ({"ssl_certfile": "server.key"}, "ssl_certfile"),
        ({"ssl_certfile": "server.pem", "ssl_keyfile": "server.key", "ssl_ca_certs": "server.key"}, "ssl_ca_certs"),
    ],
)
def test_files_that_do_not_fit_are_told_before_anything_is_loaded(
    certificates: Path, names: dict[str, str], setting: str
) -> None:
    settings = Settings.from_values({name: str(certificates / file) for name, file in names.items()})
    with pytest.raises(ConfigError) as error:
        tls_context(settings)
    assert error.value.setting == setting


def test_certificates_of_clients_need_tls_and_those_who_sign_them(certificates: Path) -> None:
    files = {"ssl_certfile": str(certificates / "server.pem"), "ssl_keyfile": str(certificates / "server.key")}
    for told in ({"ssl_cert_reqs": 2}, {"ssl_cert_reqs": 2, **files}, {"ssl_cert_reqs": 3, **files}):
        with pytest.raises(ConfigError) as error:
            tls_context(Settings.from_values(told))
        assert error.value.setting == "ssl_cert_reqs"


def test_behind_a_proxy_with_a_root_path() -> None:
    """One that takes the root path off, and one that leaves it on."""
    with running(root_path="/octavo", api_key=("secret",)) as server:
        key = {"Authorization": "Bearer secret"}
        for root in ("", "/octavo"):
            assert server.http.get(f"{root}/health").status_code == 200
            assert server.http.post(f"{root}/v1/completions", json=QUESTION).status_code == 401
            assert server.http.post(f"{root}/v1/completions", json=QUESTION, headers=key).status_code == 200
            described = server.http.get(f"{root}/openapi.json", headers=key).json()
            assert described["servers"] == [{"url": "/octavo"}]
        assert server.http.get("/octavox/health", headers=key).status_code == 404


@pytest.mark.parametrize("root", ["octavo", "/octavo/", "/"])
def test_a_root_path_that_is_none(root: str) -> None:
    with pytest.raises(ConfigError, match="root_path"):
        Settings(root_path=root)

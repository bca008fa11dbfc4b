"""The process: what it prints, how it drains, the code it exits with."""

from __future__ import annotations

import json
import math
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from octavo.errors import ConfigError
from octavo.server.listening import bind
from octavo.server.run import INTERRUPTED
from waits import wait_until
from warm.client import WarmPopen

SCRIPT = Path(__file__).with_name("serve_mock.py")
COMPLETIONS = "/v1/completions"
STEPS = 5
"""Of a worker that makes no more before it is released."""


@contextmanager
def process(
    worker: dict[str, Any], *, steps: int | None = None, **settings: Any
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and its address; with `steps`, its worker makes so many before `release`."""
    options: dict[str, Any] = {"worker": worker, "settings": {"host": "127.0.0.1", "port": 0, **settings}}
    options |= {} if steps is None else {"steps": steps}
    command = [sys.executable, str(SCRIPT), json.dumps(options)]
    with WarmPopen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            address = re.search(r"http://127\.0\.0\.1:\d+", child.stdout.readline())
            assert address is not None
            yield child, address[0]
        finally:
            child.kill()


def ask(url: str, answers: list[httpx.Response], **fields: Any) -> threading.Thread:
    """Ask in a thread for 100 tokens, of which the worker makes `STEPS`."""
    body = {"prompt": [1], "max_tokens": 100, "ignore_eos": True, **fields}
    thread = threading.Thread(target=lambda: answers.append(httpx.post(url + COMPLETIONS, json=body, timeout=60)))
    thread.start()
    wait_until(lambda: httpx.get(f"{url}/live", timeout=60).json()["tokens"]["generation"] == STEPS)
    return thread


def read_drain(child: subprocess.Popen[str]) -> str:
    """What the server says until it drains."""
    assert child.stderr is not None
    said = [child.stderr.readline()]
    while "running requests have" not in said[-1]:
        assert said[-1], "".join(said)
        said.append(child.stderr.readline())
    return "".join(said)


def release(child: subprocess.Popen[str]) -> None:
    """Have the worker make all steps."""
    assert child.stdin is not None
    print(file=child.stdin, flush=True)


@pytest.mark.parametrize("timeout_s", [30, math.inf])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_lets_running_requests_finish(number: signal.Signals, timeout_s: float) -> None:
    answers: list[httpx.Response] = []
    with process({"delay_s": 0.01}, steps=STEPS, shutdown_timeout=timeout_s) as (child, url):
        thread = ask(url, answers)
        child.send_signal(number)
        read_drain(child)
        release(child)
        thread.join()
        assert child.wait(timeout=60) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
    assert answers[0].status_code == 200
    assert answers[0].json()["usage"]["completion_tokens"] == 100


def test_an_idle_connection_is_closed_when_the_settings_say() -> None:
    with process({}, http_timeout_keep_alive=1) as (_, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b"".join(iter(lambda: connection.recv(4096), b""))
    assert received.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_does_not_finish_in_time_gets_an_error(stream: bool) -> None:
    answers: list[httpx.Response] = []
    with process({}, steps=STEPS, shutdown_timeout=0.3) as (child, url):
        thread = ask(url, answers, stream=stream)
        child.send_signal(signal.SIGTERM)
        thread.join()
        assert child.wait(timeout=60) == 0
    assert "shutting down" in answers[0].text
    assert answers[0].status_code == (200 if stream else 503)
    if stream:
        assert answers[0].text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_ctrl_c_while_it_drains_ends_what_runs(stream: bool) -> None:
    """With an error for the client, the exit code of an interrupt, and no traceback."""
    answers: list[httpx.Response] = []
    with process({}, steps=STEPS, shutdown_timeout=250) as (child, url):
        thread = ask(url, answers, stream=stream)
        child.send_signal(signal.SIGINT)
        said = read_drain(child)
        child.send_signal(signal.SIGINT)
        thread.join()
        assert child.wait(timeout=60) == INTERRUPTED
        assert child.stderr is not None
        assert "Traceback" not in said + child.stderr.read()
    assert "shutting down" in answers[0].text
    assert answers[0].status_code == (200 if stream else 503)


def test_a_client_that_does_not_read_holds_up_no_end() -> None:
    """Its connection is full, so its answer cannot be told: it is dropped, without a traceback."""
    with process({"delay_s": 0.0}, shutdown_timeout=0.1) as (child, url):
        host, port = url.removeprefix("http://").split(":")
        body = json.dumps(
            {"prompt": [1] * 400, "max_tokens": 100, "ignore_eos": True, "stream": True, "n": 32}
        ).encode()
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            deaf.connect((host, int(port)))
            deaf.sendall(head + body)
            deaf.recv(1)
            child.send_signal(signal.SIGTERM)
            assert child.wait(timeout=60) == 0
        assert child.stderr is not None
        assert "Traceback" not in child.stderr.read()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_server_without_a_worker_answers_and_exits_with_code_1(stream: bool) -> None:
    body = {"prompt": [1], "max_tokens": 9, "ignore_eos": True, "stream": stream}
    with process({"die_at_step": 3}) as (child, url):
        answer = httpx.post(url + COMPLETIONS, json=body, timeout=60)
        assert answer.status_code == (200 if stream else 500)
        assert "told to die" in answer.text
        assert child.wait(timeout=60) == 1
        assert child.stderr is not None
        assert "exit code 1: the worker died" in child.stderr.read().splitlines()[-1]


def test_an_address_in_use_is_a_clear_error() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port: cannot listen on 127.0.0.1:{port}.*--port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no name", "192.0.2.1", "2001:db8::1", "[::1]", "\u00fc" * 70, "a\0b"])
def test_a_host_that_is_not_this_machine_is_told_as_such(host: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on .*--host") as error:
        bind(host, 0)
    assert error.value.setting == "host"


def test_an_address_is_ours_before_we_listen_and_refuses_until_then() -> None:
    """So neither a second server nor a load balancer takes it for one that answers."""
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match="--port"):
            bind("127.0.0.1", port)
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect(("127.0.0.1", port))


def test_the_connections_of_the_server_before_are_not_in_the_way() -> None:
    """It has closed them first, so the system keeps its port from others for a minute."""
    with process({}, shutdown_timeout=5) as (child, url):
        port = int(url.rsplit(":", 1)[1])
        with httpx.Client(base_url=url) as client:
            assert client.get("/health").status_code == 200
            child.send_signal(signal.SIGTERM)
            assert child.wait(timeout=60) == 0
    with process({}, port=port) as (_, again):
        assert again == url

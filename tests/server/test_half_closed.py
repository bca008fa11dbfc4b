"""A client that closes its sending side after its request still gets the answer; one that closes all does not."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from server.harness import Running, running

COMPLETIONS = "/v1/completions"
LONG: dict[str, Any] = {"prompt": "x", "max_tokens": 30, "ignore_eos": True, "seed": 1}


@pytest.fixture(scope="module")
def slow() -> Iterator[Running]:
    with running(worker={"delay_s": 0.01}) as server:
        yield server


def sent(server: Running, body: dict[str, Any], version: str = "HTTP/1.1") -> http.client.HTTPConnection:
    """A connection on which a request was sent, whose answer has not been read."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    vars(connection)["_http_vsn_str"] = version
    connection.request("POST", COMPLETIONS, json.dumps(body), {"Content-Type": "application/json"})
    return connection


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("begun", [False, True], ids=["before it begins", "in its middle"])
def test_an_answer_is_given_to_its_end(slow: Running, stream: bool, begun: bool) -> None:
    body = {**LONG, "stream": stream}
    with closing(sent(slow, body)) as undisturbed:
        expected = texts(undisturbed.getresponse().read(), stream)
    if begun:
        slow.hold(5)
    with closing(sent(slow, body)) as connection:
        if begun:
            slow.wait_held()
        assert isinstance(connection.sock, socket.socket)
        connection.sock.shutdown(socket.SHUT_WR)
        slow.release()
        answer = connection.getresponse()
        assert answer.status == 200
        assert texts(answer.read(), stream) == expected
        assert connection.sock is None or connection.sock.recv(1) == b"", "nothing more can be asked: it is closed"
    slow.wait_idle()


def texts(answer: bytes, stream: bool) -> list[str]:
    if not stream:
        return [choice["text"] for choice in json.loads(answer)["choices"]]
    events = [event for event in answer.decode().split("\n\n") if event.startswith("data: {")]
    assert answer.endswith(b"data: [DONE]\n\n")
    return ["".join(json.loads(event[6:])["choices"][0]["text"] for event in events)]


def test_requests_in_a_row_are_all_answered(slow: Running) -> None:
    body = json.dumps(LONG).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(slow.address, timeout=60) as connection:
        connection.sendall(3 * (head % len(body) + body))
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while more := connection.recv(1 << 16):
            answer += more
    assert answer.count(b"HTTP/1.1 200 ") == 3


@pytest.mark.parametrize("half", [True, False], ids=["half first", "at once"])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_requests_of_a_client_that_is_gone_end(stream: bool, version: str, half: bool) -> None:
    """Even if it closes one side before the other, and if nothing is ever told of its answer."""
    with running(worker={"delay_s": 0.01}, engine={"max_model_len": 2048, "num_blocks": 512}) as server:
        body = {"prompt": "x", "max_tokens": 2000, "ignore_eos": True, "stream": stream}
        server.hold(5)
        with closing(sent(server, body, version)) as connection:
            server.wait_held()
            server.release()
            if half:
                assert isinstance(connection.sock, socket.socket)
                connection.sock.shutdown(socket.SHUT_WR)
                time.sleep(0.1)
        server.wait_idle()
        finished = server.context.loop.status().finished
        assert (finished["abort"], finished["length"]) == (1, 0)


def test_a_client_of_http_1_0_that_sends_no_more_is_gone(slow: Running) -> None:
    """Nothing can be written to it before its answer, so nothing can tell."""
    with closing(sent(slow, {**LONG, "max_tokens": 400}, "HTTP/1.0")) as connection:
        assert isinstance(connection.sock, socket.socket)
        connection.sock.shutdown(socket.SHUT_WR)
        assert connection.sock.recv(1) == b""
    slow.wait_idle()

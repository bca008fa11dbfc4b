"""The protocol itself: HEAD, HTTP/1.0, null, and fields that are known but not served."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

import pytest

from octavo.server.app import BODIES, create_app
from octavo.server.body import Body
from octavo.server.framing import MAX_LINE_BYTES
from octavo.server.http_protocol import MAX_HEAD_BYTES
from octavo.server.unserved import REFUSED
from server.harness import Running, mock_context, running

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
PATHS = {
    "CompletionRequest": COMPLETIONS,
    "ChatRequest": CHAT,
    "ResponseRequest": "/v1/responses",
    "MessagesRequest": "/v1/messages",
    "CountTokensRequest": "/v1/messages/count_tokens",
    "TokenizeRequest": "/tokenize",
    "DetokenizeRequest": "/detokenize",
}
LEAST: dict[str, Any] = {
    "CompletionRequest": {"prompt": "x", "max_tokens": 1},
    "ChatRequest": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    "ResponseRequest": {"input": "x", "max_output_tokens": 1},
    "MessagesRequest": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    "CountTokensRequest": {"messages": [{"role": "user", "content": "x"}]},
    "TokenizeRequest": {"prompt": "x"},
    "DetokenizeRequest": {"tokens": [1]},
}
GETS = [
    path.replace("{model_id}", "mock")
    for path, operations in create_app(mock_context()[0]).openapi()["paths"].items()
    if "get" in operations
]


def test_there_are_routes_to_get() -> None:
    assert {"/health", "/ready", "/v1/models", "/v1/models/mock", "/metrics"} <= set(GETS)


@pytest.mark.parametrize("path", [*GETS, "/openapi.json", "/nothing", "/v1/models/nothing"])
def test_head_is_get_without_a_body(server: Running, path: str) -> None:
    got, head = server.http.get(path), server.http.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert server.http.get("/health").status_code == 200, "the connection is still in order"


def test_head_of_what_cannot_be_got(server: Running) -> None:
    assert server.http.head(COMPLETIONS).status_code == 405


def one_point_zero(server: Running, request: str, body: bytes = b"") -> tuple[str, bytes]:
    """Head and body of the answer to an HTTP/1.0 request; read until the server closes."""
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.sendall(f"{request} HTTP/1.0\r\nContent-Length: {len(body)}\r\n".encode())
        connection.sendall(b"Content-Type: application/json\r\n\r\n" + body)
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
    head, _, rest = answer.partition(b"\r\n\r\n")
    return head.decode().lower(), rest


def raw(server: Running, *parts: bytes) -> bytes:
    """What comes back for `parts`, each sent by itself, until the server closes."""
    with socket.create_connection(server.address, timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = b""
        for part in parts:
            connection.sendall(part)
        while more := connection.recv(1 << 16):
            answer += more
    return answer


@pytest.mark.parametrize("name", [b"Upgrade", b"UPGRADE", b"upgrade"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_offer_to_upgrade_is_passed_over(server: Running, name: bytes, size: int) -> None:
    """Java's client offers HTTP/2 with its first request, body and all; a body may look like the offer."""
    body = json.dumps({"prompt": "x", "max_tokens": 1, "user": "upgrade: h2c"}, indent=0).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
    head += name + b": h2c\r\nHTTP2-Settings: AAEAAEAA\r\nUpgrade-Insecure-Requests: 1\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    whole = head + body
    answer = raw(server, *(whole[at : at + size] for at in range(0, len(whole), size)))
    assert answer.startswith(b"HTTP/1.1 200 "), answer


def test_two_requests_in_one_segment(server: Running) -> None:
    """The head that follows a body in the same segment is a head again."""
    body = b'{"prompt": "x", "max_tokens": 1}'
    one = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(
        body
    )
    answer = raw(server, one + b"\r\n" + body + one + b"Connection: close\r\n\r\n" + body)
    assert answer.count(b"HTTP/1.1 200 ") == 2


BODY = b'{"prompt": "x", "max_tokens": 3, "ignore_eos": true%b}'
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
MALFORMED = {
    "a line": (b"what is this?\r\n\r\n", 400),
    "a field": (b"GET /v1/models HTTP/1.1\r\nno field\r\n\r\n", 400),
    "a tunnel": (b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", 400),
    "large headers": (b"GET /v1/models HTTP/1.1\r\nx: %b\r\n\r\n" % (b"y" * MAX_HEAD_BYTES), 431),
    "a chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n\r\n", 400),
}


@pytest.mark.parametrize("before", [1, 3])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", MALFORMED)
def test_what_has_no_form_takes_no_answer_from_requests_before_it(
    server: Running, name: str, stream: bool, before: int
) -> None:
    """Each gets its own, whole, then what follows is refused, and nothing behind that is looked at."""
    body = BODY % (b', "stream": true' if stream else b"")
    one = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    last, status = MALFORMED[name]
    answers = split(raw(server, one * before + last + one))
    assert [answer[:13] for answer in answers] == [b"HTTP/1.1 200 "] * before + [b"HTTP/1.1 %d " % status]
    for answer in answers[:-1]:
        assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n" if stream else b"}")
        assert answer.count(b'"finish_reason":"length"') == 1
    assert b"connection: close" in answers[-1]
    server.wait_idle()


def split(answers: bytes) -> list[bytes]:
    """Answers that were read from one connection."""
    return [b"HTTP/1.1" + each for each in answers.split(b"HTTP/1.1")[1:]]


@pytest.mark.parametrize("before", [1, 3])
@pytest.mark.parametrize("name", MALFORMED)
def test_a_client_that_sends_no_more_behind_what_has_no_form_gets_all_answers(
    server: Running, name: str, before: int
) -> None:
    body = BODY % b', "stream": true'
    last, status = MALFORMED[name]
    with socket.create_connection(server.address, timeout=60) as connection:
        connection.sendall((HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body) * before + last)
        connection.shutdown(socket.SHUT_WR)
        answers = b""
        while more := connection.recv(1 << 16):
            answers += more
    statuses = [int(each.split()[1]) for each in split(answers)]
    assert [each for each in statuses if each != 100] == [200] * before + [status]
    server.wait_idle()


def in_chunks(body: bytes) -> bytes:
    """`body` in three chunks, one of them with an extension and a size that begins with zeros, and a trailer."""
    chunks = b"%x\r\n%b\r\n%x;upgrade=h2c\r\n%b\r\n" % (5, body[:5], 1, body[5:6])
    return chunks + b"000%X\r\n%b\r\n0\r\nab: c\r\n\r\n" % (len(body) - 6, body[6:])


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_an_offer_to_upgrade_behind_a_body_is_passed_over_too(server: Running, size: int, chunked: bool) -> None:
    """Wherever segments are cut: at the end of the body, or anywhere in the head that follows it."""
    body = json.dumps({"prompt": "x", "max_tokens": 1, "user": "\n upgrade: h2c \n" * 40}, indent=0).encode()
    rest = b"Content-Length: %d\r\n\r\n" % len(body) + body
    if chunked:
        rest = b"Transfer-Encoding: chunked\r\n\r\n" + in_chunks(body)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    offer = head + b"Upgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\nConnection: Upgrade, HTTP2-Settings"
    whole = head + rest + 2 * (offer + b"\r\n" + rest) + offer + b", close\r\n" + rest
    answer = raw(server, *(whole[at : at + size] for at in range(0, len(whole), size)))
    assert answer.count(b"HTTP/1.1 200 ") == 4, answer


@pytest.mark.parametrize("target", [b"example.com:443", b"[::1]:443", b"/v1/models", b"*"])
@pytest.mark.parametrize("more", [b"", b"Content-Length: 5\r\n"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_tunnel_is_refused_and_its_connection_ends(
    server: Running, target: bytes, more: bytes, version: bytes
) -> None:
    head = b"CONNECT %b HTTP/%b\r\nHost: example.com:443\r\n%b\r\n" % (target, version, more)
    status, error = only_error(raw(server, head + b"hello" * bool(more)))
    assert (status, error["type"], error["code"]) == (400, "BadRequestError", 400)
    assert "CONNECT" in error["message"]


@pytest.mark.parametrize("target", [b"http://[/health", b"http://"])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_target_that_is_none_is_refused(server: Running, method: bytes, target: bytes) -> None:
    status, error = only_error(raw(server, b"%b %b HTTP/1.1\r\nHost: x\r\n\r\n" % (method, target)))
    assert (status, error["code"]) == (400, 400)


def only_error(answer: bytes) -> tuple[int, dict[str, Any]]:
    """The status, and what the body says, of an answer after which nothing came."""
    head, _, body = answer.partition(b"\r\n\r\n")
    error: dict[str, Any] = json.loads(body)["error"]
    return int(head.split()[1]), error


@pytest.mark.parametrize(
    "rest", [b"5\r\nabcdefgh\r\n0\r\n\r\n", b"zz\r\n", b"-1\r\n\r\n", b"f" * 40 + b"\r\nabc", b"3\nabc\n"]
)
def test_chunks_of_a_wrong_form_are_refused(server: Running, rest: bytes) -> None:
    head = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    answer = raw(server, head + b"Transfer-Encoding: chunked\r\n\r\n" + rest)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == 400


@pytest.mark.parametrize("line", [b"a: b\r\n", b"a: " + b"b" * 1000 + b"\r\n", b"b"], ids=["short", "long", "endless"])
def test_headers_have_an_end(server: Running, line: bytes) -> None:
    """431 in OpenAI's shape, and nothing more is read; just under the limit they are taken."""
    head = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    fit = (MAX_HEAD_BYTES - len(head) - 20) // len(line)
    if line.endswith(b"\n"):
        assert raw(server, head + line * fit + b"\r\n").startswith(b"HTTP/1.1 200 ")
    try:
        answer = raw(server, head + line * (2 * MAX_HEAD_BYTES // len(line)))
    except ConnectionError:
        return  # closed with bytes that were not read: the answer may be lost on the way
    assert answer.startswith(b"HTTP/1.1 431 "), answer[:100]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == 431


def chunked(trailers: bytes, size_line: bytes = b"10", more: bytes = b"") -> bytes:
    """A request to tokenize with a body in one chunk, and what follows it."""
    head = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n" + more
    body = b'{"prompt": "xy"}'
    return head + b"Transfer-Encoding: chunked\r\n\r\n%b\r\n%b\r\n0\r\n%b" % (size_line, body, trailers)


def refused_with(server: Running, request: bytes) -> int | None:
    """The status that the answer to `request` has, in OpenAI's shape; None if it was lost.

    The server closes with bytes that it has not read, so the connection may be reset before the answer arrives.
    """
    try:
        answer = raw(server, request)
    except ConnectionError:
        return None
    code: int = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]
    assert answer.startswith(b"HTTP/1.1 %d " % code), answer[:100]
    return code


@pytest.mark.parametrize("line", [b"a: b\r\n", b"a: " + b"b" * 1000 + b"\r\n", b"b"], ids=["short", "long", "endless"])
def test_trailers_have_an_end(server: Running, line: bytes) -> None:
    """431, and nothing more is read; just under the limit they are passed over."""
    if line.endswith(b"\n"):
        fit = (MAX_LINE_BYTES - 20) // len(line)
        assert raw(server, chunked(line * fit + b"\r\n")).startswith(b"HTTP/1.1 200 ")
    assert refused_with(server, chunked(line * (2 * MAX_LINE_BYTES // len(line)))) in (431, None)


def test_the_line_of_a_chunk_has_an_end(server: Running) -> None:
    assert refused_with(server, chunked(b"", b"10;" + b"x" * 2 * MAX_LINE_BYTES)) in (400, None)


def test_trailers_are_no_headers() -> None:
    """In one segment with the head they come before anybody has looked at it."""
    with running(api_key=("secret",)) as guarded:
        key = b"Authorization: Bearer secret\r\n"
        assert raw(guarded, chunked(key + b"\r\n")).startswith(b"HTTP/1.1 401 ")
        assert raw(guarded, chunked(key + b"\r\n", more=key)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "junk", [b"\x00", b"GET / HTTP/1.1\r\na: " + b"b" * MAX_HEAD_BYTES], ids=["no head", "a head that is too long"]
)
def test_a_refusal_is_not_written_into_an_answer(junk: bytes) -> None:
    """A client would read it as a part of the answer that has begun; it comes behind that."""
    body = json.dumps({"prompt": "x", "max_tokens": 200, "stream": True, "ignore_eos": True}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with running(worker={"delay_s": 0.01}) as slow:
        with socket.create_connection(slow.address, timeout=60) as connection:
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            answer = connection.recv(1 << 16)
            connection.sendall(junk)
            with contextlib.suppress(ConnectionError):
                while more := connection.recv(1 << 16):
                    answer += more
        slow.wait_idle()
    begun, refusal = split(answer)
    assert begun.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert refusal.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))


def test_a_connection_that_sends_no_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep a descriptor from others; one whose answer is on the way is not idle."""
    monkeypatch.setattr("octavo.server.http_protocol.HEAD_S", 1.0)
    body = json.dumps({"prompt": "x", "max_tokens": 30, "stream": True, "ignore_eos": True}).encode()
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % len(body)
    )
    with running(worker={"delay_s": 0.05}) as slow:
        assert raw(slow) == b""
        assert raw(slow, b"GET /heal").startswith(b"HTTP/1.1 408 ")
        answer = raw(slow, head + body, b"GET /he")
    assert b"data: [DONE]" in answer


@pytest.mark.parametrize("tokens", [1, 20])
def test_a_stream_for_http_1_0_ends_with_the_connection(server: Running, tokens: int) -> None:
    body = json.dumps({"prompt": "x", "max_tokens": tokens, "stream": True, "seed": 1, "ignore_eos": True}).encode()
    head, rest = one_point_zero(server, f"POST {COMPLETIONS}", body)
    assert "200" in head.splitlines()[0]
    assert "transfer-encoding" not in head
    assert "content-length" not in head
    events = rest.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith(("data: ", ":")) for event in events[:-1])


def test_other_answers_to_http_1_0_have_a_length(server: Running) -> None:
    for request, body, status in (
        ("GET /health", b"", "200"),
        (f"POST {COMPLETIONS}", b'{"prompt": "x", "max_tokens": 1}', "200"),
        (f"POST {COMPLETIONS}", b"{", "400"),
        ("GET /nothing", b"", "404"),
        ("POST /tokenize", json.dumps({"prompt": "x" * 10_000}).encode(), "200"),
    ):
        head, rest = one_point_zero(server, request, body)
        assert status in head.splitlines()[0]
        assert "transfer-encoding" not in head
        assert f"content-length: {len(rest)}" in head
        json.loads(rest)
    head, rest = one_point_zero(server, "HEAD /health")
    assert ("200" in head.splitlines()[0], rest) == (True, b"")


FIELDS = [(body, name, field) for body in BODIES for name, field in body.model_fields.items()]


@pytest.mark.parametrize(("body", "name", "field"), FIELDS, ids=[f"{body.__name__}.{name}" for body, name, _ in FIELDS])
def test_null_is_not_set(server: Running, body: type[Body], name: str, field: Any) -> None:
    least = {**LEAST[body.__name__], "seed": 1} if "seed" in body.model_fields else LEAST[body.__name__]
    path = PATHS[body.__name__]
    answer = server.http.post(path, json={**least, name: None})
    if field.is_required():
        error = answer.json()["error"]
        assert (answer.status_code, error.get("param", name)) == (400, name)
        assert name in error["message"]
        return
    if body.__name__ == "TokenizeRequest" and name == "prompt":
        assert answer.status_code == 400, "neither prompt nor messages"
        return
    assert answer.status_code == 200, answer.text
    without = server.http.post(path, json={key: value for key, value in least.items() if key != name}).json()
    if name != "seed":
        assert answer.json().get("choices") == without.get("choices")


def test_null_options_of_a_stream_are_not_set(server: Running) -> None:
    options = {"include_usage": None, "continuous_usage_stats": None}
    answer = server.http.post(COMPLETIONS, json={"prompt": "x", "stream": True, "stream_options": options})
    assert answer.status_code == 200
    assert '"usage"' not in answer.text


def test_null_is_described(server: Running) -> None:
    schemas = server.http.get("/openapi.json").json()["components"]["schemas"]
    for body in BODIES:
        for name, field in body.model_fields.items():
            described = schemas[body.__name__]["properties"][name]
            assert ({"type": "null"} in described.get("anyOf", [])) != field.is_required(), (body.__name__, name)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, "/tokenize"])
def test_a_field_that_is_not_served_is_refused(server: Running, path: str, name: str) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]} if path == CHAT else {"prompt": "x"}
    if path != "/tokenize":
        body["max_tokens"] = 1
    if name in next(body for body in BODIES if PATHS[body.__name__] == path).model_fields:
        return  # it is one that is served there
    answer = server.http.post(path, json={**body, name: "something"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    for value in REFUSED[name][0]:
        assert server.http.post(path, json={**body, name: value}).status_code == 200, value


def test_an_error_is_short_whatever_it_repeats() -> None:
    with running(template="{{ raise_exception('no: ' + messages[0].content) }}") as server:
        body = {"messages": [{"role": "user", "content": "x" * 1_000_000}]}
        answer = server.http.post(CHAT, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")
    assert len(answer.content) < 10_000


THINKING = "{%- if enable_thinking is defined and not enable_thinking %}quiet{% else %}think{% endif %}{{ messages[0].content }}"
LEVELS = "{{ messages[0].content }} {{ reasoning_effort or 'medium' }}"


@pytest.mark.parametrize(
    ("template", "fields", "text"),
    [
        (THINKING, {}, "thinkx"),
        (THINKING, {"reasoning_effort": None}, "thinkx"),
        (THINKING, {"reasoning_effort": "none"}, "quietx"),
        (THINKING, {"reasoning_effort": "high"}, "thinkx"),
        (THINKING, {"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}}, "quietx"),
        (LEVELS, {"reasoning_effort": "low"}, "x low"),
        (LEVELS, {}, "x medium"),
    ],
)
def test_reasoning_effort_is_told_to_the_template(template: str, fields: dict[str, Any], text: str) -> None:
    with running(template=template) as server:
        body = {"messages": [{"role": "user", "content": "x"}], **fields}
        tokens = server.http.post("/tokenize", json=body).json()["tokens"]
        assert server.http.post("/detokenize", json={"tokens": tokens}).json() == {"prompt": text}
        answer = server.http.post(CHAT, json={**body, "max_tokens": 1, "return_token_ids": True}).json()
        assert answer["prompt_token_ids"] == tokens


def test_reasoning_effort_that_no_template_knows_is_refused(server: Running) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    for effort in ("none", "low", "huge"):
        answer = server.http.post(CHAT, json={**body, "reasoning_effort": effort})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "reasoning_effort")

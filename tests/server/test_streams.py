"""Streams: the wire, many at once, slow readers, silence, an end in the middle."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from typing import Any

import aiohttp
import httpx
import pytest

from octavo.config import EngineConfig
from octavo.messages import StepResult
from octavo.testing.mock_worker import MockSource, MockWorker
from server.harness import Running, running
from waits import wait_until

COMPLETIONS = "/v1/completions"


def events(text: str) -> list[Any]:
    """The data of each event; comments are left out."""
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    assert all(block.startswith("data: ") for block in blocks)
    assert blocks[-1] == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]]


def test_the_wire(server: Running) -> None:
    body = {"prompt": [1], "max_tokens": 5, "stream": True, "ignore_eos": True}
    answer = server.http.post(COMPLETIONS, json=body, headers={"X-Request-Id": "mine-1"})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-request-id"] == "mine-1"
    chunks = events(answer.text)
    assert {chunk["id"] for chunk in chunks} == {"cmpl-mine-1"}
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert all("usage" not in chunk for chunk in chunks)


def test_the_id_in_a_body_wins(server: Running) -> None:
    answer = server.http.post(
        COMPLETIONS, json={"prompt": [1], "max_tokens": 1, "request_id": "b"}, headers={"X-Request-Id": "h"}
    )
    assert (answer.headers["x-request-id"], answer.json()["id"]) == ("b", "cmpl-b")


def test_two_requests_of_the_same_id_are_two(server: Running) -> None:
    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, headers={"X-Request-Id": "same"}) as http:
            return await asyncio.gather(
                *(http.post(COMPLETIONS, json={"prompt": [1], "max_tokens": 20}) for _ in range(8))
            )

    assert [answer.status_code for answer in asyncio.run(ask())] == [200] * 8


def test_no_chunk_holds_half_a_character() -> None:
    """The answer spells a text of long characters; every chunk of it is whole."""
    text = "€😀é" * 4
    with running(worker={"delay_s": 0.002}, script=text.encode()) as server:
        body = {"prompt": [1], "max_tokens": len(text.encode()), "stream": True, "ignore_eos": True, "temperature": 0}
        chunks = events(server.http.post(COMPLETIONS, json=body).text)
        pieces = [chunk["choices"][0]["text"] for chunk in chunks]
        assert "".join(pieces) == text
        assert len(pieces) > 4
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_stop_string_ends_the_request_in_the_engine(stream: bool) -> None:
    with running(worker={"delay_s": 0.01}, script=b"abcdef" + b"x" * 500) as server:
        body = {"prompt": [1], "max_tokens": 500, "ignore_eos": True, "stop": ["cd"], "stream": stream}
        text = server.http.post(COMPLETIONS, json=body).text
        choices = [chunk["choices"][0] for chunk in events(text)] if stream else json.loads(text)["choices"]
        assert "".join(choice["text"] for choice in choices) == "ab"
        assert choices[-1]["stop_reason"] == "cd"
        server.wait_idle()
        assert server.context.loop.status().generation_tokens < 50


class PacedWorker(MockWorker):
    """Results wait for their reader: each takes a permit."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self.permits = threading.Semaphore(0)

    def receive(self, timeout_s: float | None) -> StepResult | None:
        if not self.permits.acquire(timeout=timeout_s):
            return None
        result = super().receive(timeout_s)
        if result is None:
            self.permits.release()
        return result


def paced(config: EngineConfig) -> MockSource:
    return MockSource(config, lambda *_: PacedWorker(config))


@pytest.mark.parametrize(
    ("interval", "sizes"), [(1, [1] * 12), (4, [1, 4, 4, 3]), (50, [1, 11])], ids=["every token", "every fourth", "end"]
)
def test_stream_interval(interval: int, sizes: list[int]) -> None:
    """A chunk waits for so many tokens, but for the first and the last; the worker waits for whoever reads the chunks."""
    body = {"prompt": [1], "max_tokens": 12, "stream": True, "ignore_eos": True, "return_token_ids": True}
    told = []
    with running(source=paced, stream_interval=interval) as server:
        assert isinstance(server.worker, PacedWorker)
        permits = server.worker.permits
        permits.release()
        with server.http.stream("POST", COMPLETIONS, json=body) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    told.append(len(json.loads(line.removeprefix("data: "))["choices"][0]["token_ids"]))
                    permits.release(interval)
    assert told == sizes


def test_usage_can_be_forced() -> None:
    with running(enable_force_include_usage=True) as server:
        chunks = events(server.http.post(COMPLETIONS, json={"prompt": [1], "max_tokens": 3, "stream": True}).text)
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["prompt_tokens"] == 1


def test_silence_is_filled_with_comments() -> None:
    with running(worker={"delay_s": 0.6}, sse_keep_alive_interval=0.1) as server:
        answer = server.http.post(
            COMPLETIONS, json={"prompt": [1], "max_tokens": 2, "stream": True, "ignore_eos": True}
        )
        assert answer.text.count(": keep-alive\n\n") >= 3
        assert events(answer.text)[-1]["choices"][0]["finish_reason"] == "length"


def test_a_thousand_streams_at_once() -> None:
    """All answered, each with its own tokens, by one thread."""

    async def ask(http: aiohttp.ClientSession, number: int) -> list[int]:
        body = {"prompt": [number % 250], "max_tokens": 8, "stream": True, "ignore_eos": True, "seed": number}
        async with http.post(COMPLETIONS, json={**body, "return_token_ids": True}) as answer:
            assert answer.status == 200
            return [id_ for chunk in events(await answer.text()) for id_ in chunk["choices"][0]["token_ids"]]

    async def ask_all(url: str) -> list[list[int]]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(60)) as http:
            return await asyncio.gather(*(ask(http, number) for number in range(1000)))

    with running(disable_uvicorn_access_log=True) as server:
        together = asyncio.run(ask_all(server.url))
        assert all(len(ids) == 8 for ids in together)
        for number in (0, 499, 999):
            body = {"prompt": [number % 250], "max_tokens": 8, "ignore_eos": True, "seed": number}
            alone = server.http.post(COMPLETIONS, json={**body, "return_token_ids": True}).json()
            assert alone["choices"][0]["token_ids"] == together[number]
        server.wait_idle()


def test_a_client_that_does_not_read_holds_up_nobody() -> None:
    """Its answer waits in memory, bounded by its tokens; the engine ends it and others are served."""
    with running(engine={"max_model_len": 4096, "num_blocks": 512}) as server:
        body = json.dumps(
            {"prompt": [1], "max_tokens": 4000, "stream": True, "ignore_eos": True, "logprobs": 20}
        ).encode()
        head = (
            f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = server.address
        connection.connect((host, int(port)))
        connection.sendall(f"{head}\r\n\r\n".encode() + body)
        wait_until(lambda: server.context.loop.status().finished["length"])
        assert server.http.post(COMPLETIONS, json={"prompt": [1], "max_tokens": 2}).status_code == 200
        connection.close()
        server.wait_idle()


def test_long_texts_are_tokenized_beside_the_event_loop(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    encode = server.context.tokenizer.encode

    def spy(text: str, *, add_special_tokens: bool = True) -> list[int]:
        seen.append(threading.current_thread().name)
        return encode(text, add_special_tokens=add_special_tokens)

    monkeypatch.setattr(server.context.tokenizer, "encode", spy)
    for text in ("short", "long " * 1000):
        server.http.post("/tokenize", json={"prompt": text})
    assert [name.startswith("body") for name in seen] == [False, True]

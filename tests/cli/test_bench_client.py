"""`octavo bench serve` and `burst` against a small server that speaks OpenAI's protocol."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from octavo.cli.bench.burst import Answer, digest
from octavo.cli.main import main


class FakeServer:
    """Answers every prompt with its length, one chunk per token; refuses prompts that start with `refuse`."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.refuse: int | None = None
        self.open = self.most_open = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        runner = self._loop.run_until_complete(self._serve())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _serve(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/v1/models", _always({"data": [{"id": "fake"}]}))
        app.router.add_get("/server_info", _always({"engine": {"vocab_size": 50}}))
        app.router.add_get("/health", _always({}))
        app.router.add_post("/detokenize", _always({"prompt": "some text"}))
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/chat/completions", self._complete)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        return runner

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            if self.refuse is not None and body.get("prompt", [None])[0] == self.refuse:
                return web.json_response({"error": {"message": "no such luck"}}, status=400)
            if not body.get("stream"):
                logprobs = {"token_logprobs": [-0.1 * len(body["prompt"])], "top_logprobs": [{"b": -1.5, "a": 0.0}]}
                return web.json_response({"choices": [{"token_ids": [len(body["prompt"])], "logprobs": logprobs}]})
            return await self._stream(request, body)
        finally:
            self.open -= 1

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        chat = "messages" in body
        count = body["max_completion_tokens" if chat else "max_tokens"]
        events: list[dict[str, Any]] = []
        if chat:
            events.append({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        events += [{"choices": [{"delta": {"content": "x"}} if chat else {"text": "x"}]}] * count
        events.append({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": count}})
        await response.write(b": keep-alive\n\n")
        for event in events:
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            await asyncio.sleep(0.001)
        await response.write(b"data: [DONE]\n\n")
        return response


def _always(value: object) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(value)

    return handler


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    fake.start()
    yield fake
    fake.stop()


def bench(server: FakeServer, *words: str) -> int:
    return main(["bench", words[0], "--port", str(server.port), "--disable-tqdm", *words[1:]])


@pytest.mark.parametrize("backend", ["openai", "openai-chat"])
def test_serve_measures_a_stream(
    backend: str, server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--num-prompts 5 --random-input-len 7 --random-output-len 3 --ignore-eos --max-concurrency 2 --save-result"
    words += " --save-detailed --result-filename out.json --goodput ttft:60000 --num-warmups 1"
    assert bench(server, "serve", "--backend", backend, *words.split(), "--result-dir", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "Successful requests:                     5         " in printed
    assert "Total generated tokens:                  15        " in printed
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["model_id"] == "fake"
    assert result["request_goodput"] == result["request_throughput"] > 0
    assert [len(itls) for itls in result["itls"]] == [2] * 5, "the chunk that names the role is no token"
    assert result["generated_texts"] == ["xxx"] * 5
    assert len(server.bodies) == 6
    assert server.most_open == 2
    assert all(body["ignore_eos"] and body["stream_options"] == {"include_usage": True} for body in server.bodies)
    if backend == "openai":
        assert all(len(body["prompt"]) == 7 and max(body["prompt"]) < 50 for body in server.bodies)
        assert all(body["repetition_penalty"] == 1.0 for body in server.bodies)


def test_failed_requests_are_told_and_fail_the_command(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--num-prompts 20 --random-input-len 3 --random-output-len 2 --vocab-size 2"
    server.refuse = 1
    assert bench(server, "serve", *words.split()) == 1
    printed = capsys.readouterr().out
    refused = sum(body["prompt"][0] == 1 for body in server.bodies)
    assert 0 < refused < 20
    assert f"Failed requests:                         {refused}" in printed
    assert "no such luck" in printed


def test_burst_sends_all_at_once_and_hashes_the_answers(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "burst.json"
    assert bench(server, "burst", "--num-prompts", "8", "--input-len", "11", "--json", str(out)) == 0
    assert "8 of 8 succeeded" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert result["sha256"] == digest([Answer([11], [-0.1 * 11], [{"a": 0.0, "b": -1.5}])] * 8)
    assert len({tuple(body["prompt"]) for body in server.bodies}) == 8
    assert all(body["temperature"] == 0 and body["return_token_ids"] for body in server.bodies)


def test_burst_fails_if_a_request_does(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.refuse = 0
    assert bench(server, "burst", "--num-prompts", "4", "--input-len", "3", "--vocab-size", "1") == 1
    assert "0 of 4 succeeded" in capsys.readouterr().out


def test_the_hash_sees_every_bit_and_the_order() -> None:
    answers = [Answer([1, 2], [-0.5, -0.25]), Answer([3], [-1.0], [{"a": -1.0, "b": -2.0}])]
    changed = [
        answers[::-1],
        [Answer([1, 3], [-0.5, -0.25]), answers[1]],
        [Answer([1, 2], [-0.5, -0.25000000000000006]), answers[1]],
        [answers[0], Answer(error="gone")],
        [answers[0], Answer([3], [-1.0], [{"a": -1.0, "b": -2.0000000000000004}])],
        [answers[0], Answer([3], [-1.0], [{"a": -1.0, "c": -2.0}])],
    ]
    assert len({digest(answers), *map(digest, changed)}) == 7


def test_no_server_is_told_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "burst", "--port", "1"]) == 2
    assert "http://127.0.0.1:1/v1/models does not answer" in capsys.readouterr().err

"""What the largest bodies do to everybody else: `python -m benchmarks.large_bodies`.

Starts a server with octavo-tiny, and keeps one stream running and `/health` polled while bodies of each kind are answered
one after the other. Prints the longest time that `/health` took and the longest gap in the stream for each kind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import msgspec

from benchmarks import against
from benchmarks.provenance import write_result
from octavo.config import Settings

POLL_S = 0.02
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "the",
    "lazy",
    "dog",
    "and",
    "naïve",
    "readers",
    "count",
    "12345",
    "apples",
    "in",
    "你好",
]
HI = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "1"}
"""As responses have them."""
RETURNED = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "x"}]}
"""As a message has it."""


def serve(port: int) -> None:
    """Run the server in this process until SIGTERM."""
    from octavo.server.listening import bind
    from octavo.server.run import run_server
    from octavo.startup import in_processes, server_context, start

    settings = Settings(port=port, host="127.0.0.1", disable_log_stats=True, disable_uvicorn_access_log=True)
    context = server_context(start(settings, in_processes))
    context.loop.start()
    run_server(context, bind(settings.host, settings.port))


Kind = Callable[[int], tuple[str, bytes]]
"""Bytes to aim at -> the path and the body."""


def kinds() -> dict[str, Kind]:
    """By name; each asks for the least that a server can do with it, or for nothing that it could do."""
    encode = msgspec.json.encode

    def text(size: int) -> str:
        draw = random.Random(size)
        return " ".join(draw.choices(WORDS, k=size // 6))[: size * 9 // 10]

    def completion(**fields: Any) -> tuple[str, bytes]:
        return "/v1/completions", encode({"max_tokens": 1, "prompt": "x", **fields})

    def chat(messages: list[dict[str, str]]) -> tuple[str, bytes]:
        return "/v1/chat/completions", encode({"max_tokens": 1, "messages": messages})

    def response(items: str | list[Any]) -> tuple[str, bytes]:
        return "/v1/responses", encode({"max_output_tokens": 1, "input": items})

    def message(turns: list[Any]) -> tuple[str, bytes]:
        return "/v1/messages", encode({"max_tokens": 1, "messages": turns})

    def use(size: int) -> dict[str, Any]:
        return {
            "type": "tool_use",
            "id": "1",
            "name": "f",
            "input": {str(number): [number] for number in range(size // 22)},
        }

    return {
        "text to /tokenize": lambda size: ("/tokenize", encode({"prompt": text(size)})),
        "the same without spaces": lambda size: ("/tokenize", encode({"prompt": "x" * (size - 100)})),
        "the same, return_token_strs": lambda size: (
            "/tokenize",
            encode({"prompt": text(size), "return_token_strs": True}),
        ),
        "messages to /tokenize": lambda size: (
            "/tokenize",
            encode({"messages": [HI] * (size // 32)}),
        ),
        "ids to /detokenize": lambda size: ("/detokenize", encode({"tokens": [104, 105] * (size // 8)})),
        "a text as prompt": lambda size: completion(prompt=text(size)),
        "a prompt of ids": lambda size: completion(prompt=[104, 105] * (size // 8)),
        "1024 prompts of ids": lambda size: completion(prompt=[[104, 105] * (size // 8192)] * 1024),
        "many prompts of one id": lambda size: completion(prompt=[[1]] * (size // 4)),
        "many texts": lambda size: completion(prompt=["hi"] * (size // 5)),
        "many messages": lambda size: chat([HI] * (size // 32)),
        "one long message": lambda size: chat([{"role": "user", "content": text(size)}]),
        "a text as input of a response": lambda size: response(text(size)),
        "many items": lambda size: response([HI] * (size // 32)),
        "many parts of an item": lambda size: response(
            [{"role": "user", "content": [{"type": "input_text", "text": "hi"}] * (size // 36)}]
        ),
        "a long result of a call": lambda size: response([HI, CALL, {**RESULT, "output": text(size)}]),
        "many turns of a message": lambda size: message([HI] * (size // 32)),
        "many blocks": lambda size: message(
            [{"role": "user", "content": [{"type": "text", "text": "hi"}] * (size // 28)}]
        ),
        "one long block": lambda size: message([{"role": "user", "content": [{"type": "text", "text": text(size)}]}]),
        "input of a tool_use": lambda size: message([HI, {"role": "assistant", "content": [use(size)]}, RETURNED]),
        "blocks that are counted": lambda size: (
            "/v1/messages/count_tokens",
            encode({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}] * (size // 28)}]}),
        ),
        "a logit_bias": lambda size: completion(logit_bias={str(number): 1 for number in range(size // 11)}),
        "stop strings": lambda size: completion(stop=["stop"] * (size // 7)),
        "stop ids": lambda size: completion(stop_token_ids=[1] * (size // 2 - 100)),
        "template arguments": lambda size: (
            "/v1/chat/completions",
            encode(
                {
                    "max_tokens": 1,
                    "messages": [HI],
                    "chat_template_kwargs": {str(number): [number] for number in range(size // 22)},
                }
            ),
        ),
        "an unknown field": lambda size: completion(unknown=[{"a": [1, 2, 3]}] * (size // 16)),
        "deep nesting": lambda size: (
            "/v1/completions",
            b'{"prompt":"x","user":' + b"[" * (size // 2) + b"]" * (size // 2) + b"}",
        ),
        "not JSON": lambda size: ("/v1/completions", b'{"prompt":"' + b"x" * size),
    }


class Watch:
    """The longest of some times since it was last asked."""

    def __init__(self) -> None:
        self._longest_s = 0.0

    def add(self, seconds: float) -> None:
        self._longest_s = max(self._longest_s, seconds)

    def take(self) -> float:
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s


async def poll_health(session: aiohttp.ClientSession, url: str, watch: Watch) -> None:
    while True:
        start_s = time.perf_counter()
        async with session.get(f"{url}/health") as answer:
            answer.raise_for_status()
        watch.add(time.perf_counter() - start_s)
        await asyncio.sleep(POLL_S)


async def keep_streaming(session: aiohttp.ClientSession, url: str, watch: Watch) -> None:
    """One answer after the other, as long as the model can make."""
    body = {"prompt": "hello", "max_tokens": 4000, "stream": True, "ignore_eos": True, "return_token_ids": True}
    while True:
        async with session.post(f"{url}/v1/completions", json=body) as answer:
            answer.raise_for_status()
            last_s = time.perf_counter()
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    now_s = time.perf_counter()
                    watch.add(now_s - last_s)
                    last_s = now_s


def send(port: int, path: str, body: bytes, results: Any) -> None:
    """Post `body` and read the whole answer, in a process of its own; puts status, bytes and seconds."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port)
    start_s = time.perf_counter()
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    size = 0
    while chunk := answer.read(1 << 20):
        size += len(chunk)
    results.put((answer.status, size, time.perf_counter() - start_s))


async def measure(port: int, size: int, names: list[str]) -> list[list[Any]]:
    url = f"http://127.0.0.1:{port}"
    health, stream = Watch(), Watch()
    spawn = multiprocessing.get_context("spawn")
    results: Any = spawn.Queue()
    rows: list[list[Any]] = []
    unbounded = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=unbounded) as session, watching(session, url, health, stream):
        for name in names:
            path, body = await asyncio.to_thread(kinds()[name], size)
            await asyncio.sleep(1)
            health.take(), stream.take()
            if rows == []:  # nothing but what goes on all the time
                await asyncio.sleep(5)
                rows.append(["nothing", "", "", "", round(health.take(), 3), round(stream.take(), 3)])
            sender = spawn.Process(target=send, args=(port, path, body, results))
            await asyncio.to_thread(sender.start)
            status, received, seconds = await asyncio.to_thread(results.get)
            await asyncio.sleep(0.5)
            rows.append(
                [
                    name,
                    status,
                    round(received / 1e6, 1),
                    round(seconds, 1),
                    round(health.take(), 3),
                    round(stream.take(), 3),
                ]
            )
            print(rows[-1], flush=True)
            await asyncio.to_thread(sender.join)
    return rows


@contextlib.asynccontextmanager
async def watching(session: aiohttp.ClientSession, url: str, health: Watch, stream: Watch) -> AsyncIterator[None]:
    """With a server that is ready, `/health` polled and a stream running."""
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"{url}/ready") as answer:
                if answer.status == 200:
                    break
        await asyncio.sleep(0.2)
    tasks = [
        asyncio.create_task(watch)
        for watch in (poll_health(session, url, health), keep_streaming(session, url, stream))
    ]
    try:
        yield
        for task in tasks:
            if task.done():
                await task
    finally:
        for task in tasks:
            task.cancel()


@contextlib.contextmanager
def server() -> Iterator[int]:
    """A server in a process of its own; yields its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(port,))
    process.start()
    try:
        yield port
    finally:
        process.terminate()
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=float, default=30, help="of each body, about")
    parser.add_argument("--kinds", nargs="+", choices=list(kinds()), default=list(kinds()))
    parser.add_argument("--no-result", action="store_true", help="print alone")
    args = against.parse_args(parser, "large_bodies")
    with server() as port:
        rows = asyncio.run(measure(port, int(args.mib * (1 << 20)), args.kinds))
    if args.no_result:
        return
    write_result(
        "large_bodies",
        title="Large bodies beside a stream",
        conditions=f"One body of about {args.mib:g} MiB of each kind sent to a server with octavo-tiny, while one stream runs and "
        f"`/health` is asked every {POLL_S * 1000:.0f} ms; server, worker, sender and watcher share the cores of one machine. "
        "The longest time of each; `nothing` is what they are without a body.",
        columns=["body", "status", "answer, MB", "seconds", "longest /health, s", "longest gap in the stream, s"],
        rows=rows,
    )


if __name__ == "__main__":
    main()

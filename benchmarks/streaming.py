"""How many tokens per second the server can stream: `python -m benchmarks.streaming`.

The worker answers at once, so what is timed is the engine's schedule, detokenization, JSON and HTTP, in one process; the
client runs in another.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import socket
import statistics
import time
from collections import deque
from typing import Any

import aiohttp

from benchmarks.provenance import write_result
from octavo.config import Settings
from octavo.messages import SampledToken, StepPlan, StepResult, WorkerConfig, WorkerReady

PROMPT = list(range(32))


class InstantWorker:
    """A `WorkerLink` without a model: every token it makes is the byte `a` to `z` of its slot."""

    def __init__(self, config: WorkerConfig, num_blocks: int) -> None:
        self.ready = WorkerReady(
            pid=os.getpid(),
            device="none",
            weights_format="none",
            num_blocks=num_blocks,
            weight_bytes=0,
            kv_cache_bytes=0,
            workspace_bytes=0,
            load_s=0.0,
            warm_up_s=0.0,
        )
        self._results: deque[StepResult] = deque()

    def send(self, plan: StepPlan) -> None:
        sampled = [SampledToken(chunk.slot, 97 + chunk.slot % 26, None) for chunk in plan.chunks if chunk.sample]
        self._results.append(StepResult(step=plan.step, sampled=sampled))

    def receive(self, timeout_s: float | None) -> StepResult | None:
        if self._results:
            return self._results.popleft()
        time.sleep(timeout_s or 0)
        return None

    def close(self) -> None:
        self._results.clear()


def serve(port: int, streams: int) -> None:
    """Run the server in this process until SIGTERM."""
    from octavo.server.run import run_server
    from octavo.startup import server_context, start

    settings = Settings(
        port=port, host="127.0.0.1", max_num_seqs=streams, disable_log_stats=True, disable_uvicorn_access_log=True
    )
    context = server_context(start(settings, lambda config, _: InstantWorker(config, num_blocks=64 * streams)))
    context.loop.start()
    run_server(context)


async def stream(session: aiohttp.ClientSession, url: str, tokens: int) -> int:
    """Ask for one answer; returns the number of chunks it came in."""
    body = {"prompt": PROMPT, "max_tokens": tokens, "stream": True, "ignore_eos": True, "temperature": 0}
    chunks = 0
    async with session.post(url, json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            chunks += line.startswith(b"data: {")
    return chunks


async def measure(port: int, streams: int, tokens: int, repeats: int) -> list[float]:
    """Tokens per second of each repetition, after one to warm up."""
    url = f"http://127.0.0.1:{port}/v1/completions"
    rates = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), read_bufsize=2**20) as session:
        await wait_for(session, port)
        for number in range(repeats + 1):
            start = time.perf_counter()
            chunks = await asyncio.gather(*(stream(session, url, tokens) for _ in range(streams)))
            elapsed_s = time.perf_counter() - start
            assert min(chunks) > 0
            if number:
                rates.append(streams * tokens / elapsed_s)
    return rates


async def wait_for(session: aiohttp.ClientSession, port: int) -> None:
    """Return once the server is healthy."""
    while True:
        try:
            async with session.get(f"http://127.0.0.1:{port}/health") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientError:
            await asyncio.sleep(0.1)


def run(streams: int, tokens: int, repeats: int) -> list[float]:
    """Measure against a fresh server process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(port, streams))
    server.start()
    try:
        return asyncio.run(measure(port, streams, tokens, repeats))
    finally:
        server.terminate()
        server.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rows: list[list[Any]] = []
    raw = {}
    for streams in args.streams:
        rates = raw[str(streams)] = run(streams, args.tokens, args.repeats)
        rows.append([streams, round(statistics.median(rates)), round(min(rates)), round(max(rates))])
        print(f"{streams} streams: {rows[-1][1]} tokens/s (median of {args.repeats})", flush=True)
    write_result(
        "streaming",
        title="Streaming",
        conditions=f"`/v1/completions`, {args.tokens} tokens per answer, one after the other in each stream; a worker that "
        f"answers at once; server and client in a process each on the same machine; median of {args.repeats} repetitions.",
        columns=["streams at once", "tokens/s", "least", "most"],
        rows=rows,
        raw={"tokens_per_s": raw},
    )


if __name__ == "__main__":
    main()

"""How many tokens per second the server can stream: `python -m benchmarks.streaming`.

The worker computes nothing, so what is timed is the engine's schedule, detokenization, JSON and HTTP, in one process; the
client runs in another. A worker that answers at once shows the most tokens per second, but tokens that come while the server
writes go out together; one that takes some milliseconds per step, as a real one does, shows how many go out one by one.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import multiprocessing
import os
import socket
import statistics
import time
from collections import deque
from typing import Any

import aiohttp

from benchmarks import against
from benchmarks.provenance import write_result
from octavo.config import Settings
from octavo.messages import SampledToken, StepMasks, StepPlan, StepResult, WorkerReady

PROMPT = list(range(32))


class EmptyWorker:
    """A `WorkerLink` without a model: every token it makes is the byte `a` to `z` of its slot, `step_s` after the last."""

    def __init__(self, num_blocks: int, step_s: float) -> None:
        self._step_s = step_s
        self._free_s = 0.0
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
        self._results: deque[tuple[float, StepResult]] = deque()

    def send(self, plan: StepPlan) -> None:
        sampled = [SampledToken(chunk.slot, 97 + chunk.slot % 26, None) for chunk in plan.chunks if chunk.sample]
        self._free_s = max(self._free_s, time.monotonic()) + self._step_s
        self._results.append((self._free_s, StepResult(step=plan.step, sampled=sampled)))

    def tell(self, masks: StepMasks) -> None:
        raise AssertionError("no request here has a grammar")

    def receive(self, timeout_s: float | None) -> StepResult | None:
        due_s = self._results[0][0] if self._results else math.inf
        time.sleep(max(0.0, min(due_s - time.monotonic(), math.inf if timeout_s is None else timeout_s)))
        return self._results.popleft()[1] if due_s <= time.monotonic() else None

    @property
    def stopped(self) -> bool:
        return False

    def last_output(self) -> list[str]:
        return []

    def close(self) -> None:
        self._results.clear()


class EmptySource:
    """A `WorkerSource` of empty workers."""

    def __init__(self, num_blocks: int, step_s: float) -> None:
        self._num_blocks = num_blocks
        self._step_s = step_s

    def start(self, num_blocks: int | None) -> EmptyWorker:
        return EmptyWorker(num_blocks or self._num_blocks, self._step_s)

    def tend(self) -> None:
        """Nothing is prepared."""

    def abandon(self) -> None:
        """Nothing is waited for."""

    def close(self) -> None:
        """Nothing is held."""


def serve(port: int, streams: int, step_s: float) -> None:
    """Run the server in this process until SIGTERM."""
    from octavo.server.listening import bind
    from octavo.server.run import run_server
    from octavo.startup import server_context, start

    settings = Settings(
        port=port, host="127.0.0.1", max_num_seqs=streams, disable_log_stats=True, disable_uvicorn_access_log=True
    )
    context = server_context(start(settings, lambda *_: EmptySource(64 * streams, step_s)))
    context.loop.start()
    run_server(context, bind(settings.host, settings.port))


async def stream(session: aiohttp.ClientSession, url: str, tokens: int) -> int:
    """Ask for one answer; returns the number of chunks it came in."""
    body = {"prompt": PROMPT, "max_tokens": tokens, "stream": True, "ignore_eos": True, "temperature": 0}
    chunks = 0
    async with session.post(url, json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            chunks += line.startswith(b"data: {")
    return chunks


async def measure(port: int, streams: int, tokens: int, repeats: int) -> tuple[list[float], float]:
    """Tokens per second of each repetition, after one to warm up; and tokens per event, over all of them."""
    url = f"http://127.0.0.1:{port}/v1/completions"
    rates = []
    events = 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), read_bufsize=2**20) as session:
        await wait_for(session, port)
        for number in range(repeats + 1):
            start = time.perf_counter()
            chunks = await asyncio.gather(*(stream(session, url, tokens) for _ in range(streams)))
            elapsed_s = time.perf_counter() - start
            assert min(chunks) > 0
            if number:
                rates.append(streams * tokens / elapsed_s)
                events += sum(chunks)
    return rates, streams * tokens * repeats / events


async def wait_for(session: aiohttp.ClientSession, port: int) -> None:
    """Return once the server is healthy."""
    while True:
        try:
            async with session.get(f"http://127.0.0.1:{port}/health") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientError:
            await asyncio.sleep(0.1)


def run(streams: int, step_s: float, tokens: int, repeats: int) -> tuple[list[float], float]:
    """Measure against a fresh server process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(port, streams, step_s))
    server.start()
    try:
        return asyncio.run(measure(port, streams, tokens, repeats))
    finally:
        server.terminate()
        server.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--step-ms", type=float, nargs="+", default=[0, 5, 10, 20])
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--repeats", type=int, default=5)
    args = against.parse_args(parser, "streaming")
    rows: list[list[Any]] = []
    raw = {}
    for step_ms in args.step_ms:
        rates, tokens_per_event = run(args.streams, step_ms / 1000, args.tokens, args.repeats)
        raw[f"{step_ms:g} ms"] = rates
        offered = f"{round(1000 * args.streams / step_ms):,}" if step_ms else "no limit"
        rows.append(
            [
                f"{step_ms:g}",
                offered,
                round(statistics.median(rates)),
                round(min(rates)),
                round(max(rates)),
                round(tokens_per_event, 2),
            ]
        )
        print(rows[-1], flush=True)
    write_result(
        "streaming",
        title="Streaming",
        conditions=f"{args.streams} streams of `/v1/completions` at once, {args.tokens} tokens each, a worker that computes "
        f"nothing and takes a fixed time per step; server and client in a process each on the same machine; median of "
        f"{args.repeats} repetitions. Tokens that come while the server writes go out in one event.",
        columns=[
            "worker's ms per step",
            "tokens/s it offers",
            "tokens/s streamed",
            "least",
            "most",
            "tokens per event",
        ],
        rows=rows,
        raw={"tokens_per_s": raw},
    )


if __name__ == "__main__":
    main()

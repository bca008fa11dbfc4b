"""Asks an OpenAI-compatible server and times what comes back."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from octavo.errors import OctavoError

TIME_LIMIT_S = 6 * 3600.0
"""Of one request, as in vLLM's benchmark client."""


@dataclasses.dataclass
class Outcome:
    """Holds what one request gave; times are in seconds on one clock."""

    prompt_tokens: int
    started: float = 0.0
    success: bool = False
    error: str = ""
    text: str = ""
    output_tokens: int = 0
    arrivals: list[float] = dataclasses.field(default_factory=list)
    """When each chunk with text or tokens came."""
    ended: float = 0.0
    token_ids: list[int] = dataclasses.field(default_factory=list)
    """Where the request asked for them."""
    logprobs: list[tuple[float | None, dict[str, float] | None]] = dataclasses.field(default_factory=list)
    """Of a completion that asked for them: of each token, and of the likeliest at its place."""
    finish_reason: str | None = None

    @property
    def answer(self) -> list[object]:
        """All that must be equal each time the same request is asked."""
        return [self.text, self.output_tokens, self.token_ids, self.logprobs, self.finish_reason]

    @property
    def ttft_s(self) -> float:
        """Time to first token."""
        return self.arrivals[0] - self.started

    @property
    def itls_s(self) -> list[float]:
        """Times between chunks."""
        return [after - before for before, after in zip(self.arrivals, self.arrivals[1:], strict=False)]

    @property
    def latency_s(self) -> float:
        """Seconds from sending the request to its last token."""
        return self.arrivals[-1] - self.started

    @property
    def tpot_s(self) -> float:
        """Time per output token after the first; 0 if there was one only."""
        return (self.latency_s - self.ttft_s) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0


class BenchClient:
    """One connection pool to one server."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self._session = session
        self.base_url = base_url.rstrip("/")

    async def get(self, path: str) -> Any:
        """The JSON that `path` answers.

        Raises:
            OctavoError: the server does not answer, or not with 200.
        """
        return await self._ask("GET", path, None)

    async def post(self, path: str, payload: dict[str, Any]) -> Any:
        """Posts `payload`; returns and raises as `get` does."""
        return await self._ask("POST", path, payload)

    async def model(self) -> str:
        """The name of the model the server serves."""
        return str((await self.get("/v1/models"))["data"][0]["id"])

    async def is_well(self) -> bool:
        """Whether `/health` says 200."""
        try:
            async with self._session.get(self.base_url + "/health") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def wait_until_ready(self, timeout_s: float) -> None:
        """Return when `/health` says 200.

        Raises:
            OctavoError: it does not within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                async with self._session.get(self.base_url + "/health") as response:
                    if response.status == 200:
                        return
                    said = f"says {response.status}"
            except aiohttp.ClientError as exc:
                said = f"does not answer: {exc}"
            if time.monotonic() >= deadline:
                raise OctavoError(f"{self.base_url}/health {said}")
            await asyncio.sleep(0.25)

    async def stream(self, path: str, payload: dict[str, Any], prompt_tokens: int) -> Outcome:
        """Send `payload` with `stream` on and time every chunk; a failure is told in the outcome."""
        outcome = Outcome(prompt_tokens, started=time.perf_counter())
        payload = {**payload, "stream": True, "stream_options": {"include_usage": True}}
        try:
            async with self._session.post(self.base_url + path, json=payload) as response:
                if response.status != 200:
                    outcome.error = f"{response.status}: {(await response.text())[:300]}"
                else:
                    await _read_stream(response, outcome)
        except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError) as exc:
            outcome.error = f"{type(exc).__name__}: {exc}"
        outcome.ended = time.perf_counter()
        outcome.success = not outcome.error and bool(outcome.arrivals)
        if not outcome.success and not outcome.error:
            outcome.error = "the stream ended without a token"
        return outcome

    async def _ask(self, method: str, path: str, payload: dict[str, Any] | None) -> Any:
        try:
            async with self._session.request(method, self.base_url + path, json=payload) as response:
                if response.status != 200:
                    raise OctavoError(f"{method} {path} answered {response.status}: {(await response.text())[:300]}")
                return await response.json()
        except aiohttp.ClientError as exc:
            raise OctavoError(f"{self.base_url}{path} does not answer: {exc}") from exc


@asynccontextmanager
async def connect(args: argparse.Namespace) -> AsyncIterator[BenchClient]:
    """A client for the server that the flags of `add_server_flags` name; any number of connections."""
    headers = {"Authorization": f"Bearer {args.api_key}"} if args.api_key else {}
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=TIME_LIMIT_S),
        read_bufsize=2**20,
        headers=headers,
    ) as session:
        yield BenchClient(session, args.base_url or f"http://{args.host}:{args.port}")


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say where the server is."""
    parser.add_argument("--base-url", metavar="URL", help="address of the server; wins over --host and --port")
    parser.add_argument("--host", default="127.0.0.1", metavar="TEXT", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default: %(default)s")
    parser.add_argument("--api-key", metavar="TEXT", help="sent as Bearer token")
    parser.add_argument("--model", metavar="NAME", help="default: the first of /v1/models")
    parser.add_argument(
        "--ready-check-timeout-sec", type=float, default=0.0, metavar="X", help="wait this long for /health; default: 0"
    )


async def _read_stream(response: aiohttp.ClientResponse, outcome: Outcome) -> None:
    """Fill `outcome` from server-sent events."""
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue  # blank lines end events; lines that start with a colon are comments
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            outcome.error = str(event["error"].get("message", event["error"]))
            return
        if event.get("choices"):
            choice = event["choices"][0]
            text = choice.get("text") if "delta" not in choice else choice["delta"].get("content")
            # a token may show no text yet; a chat stream opens with a chunk that only names the role
            if text or (text is not None and "role" not in choice.get("delta", {})):
                outcome.arrivals.append(time.perf_counter())
                outcome.text += text
            outcome.token_ids += choice.get("token_ids") or []
            outcome.finish_reason = choice.get("finish_reason") or outcome.finish_reason
            if "text" in choice and (logprobs := choice.get("logprobs")):
                values = logprobs["token_logprobs"]
                outcome.logprobs += zip(values, logprobs["top_logprobs"] or [None] * len(values), strict=True)
        if event.get("usage"):
            outcome.output_tokens = int(event["usage"]["completion_tokens"])
            outcome.prompt_tokens = int(event["usage"]["prompt_tokens"])

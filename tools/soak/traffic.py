"""Requests as strangers send them, and what must come of each."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
VOCABULARY = 256
"""Token ids are drawn below it: every byte is a token of the embedded models."""
Body = dict[str, Any]


class Trouble(Exception):
    """An answer that is not what it must be."""


class Traffic:
    """Asks a server, and counts what came of it.

    Args:
        url: of the server.
        session: for its connections.
        dice: draws everything.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession, dice: random.Random) -> None:
        self._url, self._session, self._dice = url, session, dice
        self.counts: Counter[str] = Counter()
        self.troubles: list[str] = []
        self._known: dict[int, Any] = {}
        """The first answer to each probe."""

    async def one(self) -> None:
        """One thing that a client may do, drawn."""
        kinds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (6, self._whole),
            (6, self._stream),
            (6, self._probe),
            (3, self._leave),
            (4, self._bad),
            (1, self._look),
        ]
        weights, acts = zip(*kinds, strict=True)
        act = self._dice.choices(acts, weights)[0]
        name = act.__name__.strip("_")
        try:
            await act()
            self.counts[name] += 1
        except Exception as error:  # whatever it is, it is what a client would have seen
            self.counts[f"{name} failed"] += 1
            self.troubles.append(f"{name}: {error!r}"[:500])

    async def _whole(self) -> None:
        path, body = self._draw()
        answer = await self._post(path, body)
        expected = body.get("n", 1)
        if len(answer["choices"]) != expected or not all(each["finish_reason"] for each in answer["choices"]):
            raise Trouble(f"not {expected} whole choices: {answer}")

    async def _stream(self) -> None:
        path, body = self._draw()
        reasons, done = 0, False
        async with self._session.post(self._url + path, json={**body, "stream": True}) as response:
            if response.status != 200:
                raise Trouble(f"status {response.status}: {await response.text()}")
            async for event in _events(response):
                done = event == "[DONE]"
                if not done:
                    chunk = json.loads(event)
                    if "error" in chunk:
                        raise Trouble(event)
                    reasons += sum(bool(each["finish_reason"]) for each in chunk["choices"])
        if not done or reasons != body.get("n", 1):
            raise Trouble(f"the stream ended early: {reasons} choices finished, done {done}")

    async def _probe(self) -> None:
        number = self._dice.randrange(12)
        answer = await self._post(COMPLETIONS, probe(number))
        told = answer["choices"][0]
        told = [told["text"], told["token_ids"], told["logprobs"], told["finish_reason"]]
        if self._known.setdefault(number, told) != told:
            raise Trouble(f"probe {number} was {self._known[number]} and is {told}")

    async def _leave(self) -> None:
        path, body = self._draw()
        lines = self._dice.randrange(6)
        async with self._session.post(self._url + path, json={**body, "stream": True}) as response:
            if response.status != 200:
                raise Trouble(f"status {response.status}: {await response.text()}")
            async for _line in response.content:
                lines -= 1
                if lines < 0:
                    response.close()
                    return

    async def _bad(self) -> None:
        path, data, kind = self._dice.choice(BAD)
        async with self._session.post(self._url + path, data=data, headers={"Content-Type": kind}) as response:
            text = await response.text()
            if not 400 <= response.status < 500 or "error" not in json.loads(text):
                raise Trouble(f"{data[:100]!r} got {response.status}: {text}")

    async def _look(self) -> None:
        path = self._dice.choice(["/health", "/metrics", "/v1/models", "/server_info", "/version"])
        async with self._session.get(self._url + path) as response:
            await response.read()
            if response.status != 200 and not (path == "/health" and response.status == 503):
                raise Trouble(f"{path} got {response.status}")

    async def _post(self, path: str, body: Body) -> Any:
        async with self._session.post(self._url + path, json=body) as response:
            text = await response.text()
            if response.status != 200:
                raise Trouble(f"status {response.status}: {text}")
            return json.loads(text)

    def _draw(self) -> tuple[str, Body]:
        """A request that must be answered."""
        dice = self._dice
        body: Body = {"max_tokens": dice.choice([1, 2, 8, 30, 120])}
        body |= dice.choice([{}, {"temperature": 0}, {"temperature": 0.7, "top_p": 0.8, "top_k": 20}, {"min_p": 0.1}])
        body |= dice.choice([{}, {}, {"seed": dice.randrange(100)}, {"n": 3, "seed": 1, "temperature": 0.9}])
        body |= dice.choice([{}, {}, {"presence_penalty": 0.5}, {"repetition_penalty": 1.2, "frequency_penalty": 0.1}])
        body |= dice.choice([{}, {}, {"stop": ["4", "\n\n"]}, {"ignore_eos": True}, {"logit_bias": {"7": 5}}])
        if dice.random() < 0.4:
            numbers = f"{dice.randrange(100)} + {dice.randrange(100)}"
            body["messages"] = [{"role": "user", "content": f"What is {numbers}?"}]
            return CHAT, body | dice.choice([{}, {"logprobs": True, "top_logprobs": 3}])
        length = dice.choice([1, 7, 40, 40, 300, 1001])
        body["prompt"] = [dice.randrange(VOCABULARY) for _ in range(length)]
        return COMPLETIONS, body | dice.choice([{}, {"logprobs": 2}, {"echo": True}])


async def _events(response: aiohttp.ClientResponse) -> Any:
    """What server-sent events say, comments left out."""
    async for line in response.content:
        if line.startswith(b"data: "):
            yield line[6:].decode().rstrip("\n")


def probe(number: int) -> Body:
    """One of the requests that are asked again and again, whose answers must be the same bits."""
    dice = random.Random(number)
    body: Body = {"prompt": [dice.randrange(VOCABULARY) for _ in range(20 + 70 * (number % 4))], "max_tokens": 40}
    sampling: list[Body] = [
        {"temperature": 0},
        {"seed": 5},
        {"seed": 6, "temperature": 0.8, "top_p": 0.9},
        {"seed": 7, "top_k": 9},
    ]
    return {**body, **sampling[number % 4], "logprobs": 3, "ignore_eos": True, "return_token_ids": True}


JSON = "application/json"
BAD: list[tuple[str, bytes, str]] = [
    (COMPLETIONS, b"", JSON),
    (COMPLETIONS, b"{", JSON),
    (COMPLETIONS, b"[" * 100_000, JSON),
    (COMPLETIONS, b"null", JSON),
    (COMPLETIONS, b'{"prompt": [1], "max_tokens": -1}', JSON),
    (COMPLETIONS, b'{"prompt": [-1]}', JSON),
    (COMPLETIONS, b'{"prompt": [99999999]}', JSON),
    (COMPLETIONS, b'{"prompt": []}', JSON),
    (COMPLETIONS, json.dumps({"prompt": [1] * 100_000}).encode(), JSON),
    (COMPLETIONS, b'{"prompt": "a", "temperature": NaN}', JSON),
    (COMPLETIONS, b'{"prompt": "a", "top_p": 7}', JSON),
    (COMPLETIONS, b'{"prompt": "a", "n": 1000000}', JSON),
    (COMPLETIONS, b'{"prompt": "a", "logit_bias": {"x": 1}}', JSON),
    (COMPLETIONS, b'{"prompt": "a", "model": "another"}', JSON),
    (COMPLETIONS, b"\xff\xfe\x00", JSON),
    (CHAT, b'{"messages": []}', JSON),
    (CHAT, b'{"messages": "hello"}', JSON),
    (CHAT, json.dumps({"messages": [{"role": "user", "content": "x" * 3_000_000}]}).encode(), JSON),
    ("/tokenize", b'{"prompt": 5}', JSON),
    ("/detokenize", b'{"tokens": [-5]}', JSON),
    ("/no/such/path", b"{}", JSON),
]
"""Path, body and type of what must be refused."""


async def fill_cache(url: str, session: aiohttp.ClientSession) -> None:
    """Have 11,000 texts tokenized: the tokenizer keeps the last 10,000 (its library's bound), and grows until then."""
    for first in range(0, 11_000, 50):
        bodies = [{"prompt": f"What is {number} - 1?"} for number in range(first, first + 50)]
        answers = await asyncio.gather(*(session.post(f"{url}/tokenize", json=body) for body in bodies))
        for answer in answers:
            async with answer:
                answer.raise_for_status()


async def broken_sockets(host: str, port: int, dice: random.Random) -> None:
    """Connect as clients do that are no HTTP clients: half a request, nonsense, or nothing at all."""
    _reader, writer = await asyncio.open_connection(host, port)
    said = [
        b"",
        b"GET /health HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
    ]
    writer.write(dice.choice(said))
    await asyncio.sleep(dice.random())
    writer.close()

"""Bodies that are not sent to their end: neither memory nor a connection is held for ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest

from octavo.errors import OverloadedError
from octavo.server.body import BodyIntake
from octavo.server.errors import SlowRequestError


class Sender:
    """A request whose body comes in `parts`, and stops where one is None."""

    def __init__(self, *parts: bytes | None) -> None:
        self.headers = {"content-type": "application/json"}
        self._parts = parts

    async def stream(self) -> AsyncGenerator[bytes]:
        for part in self._parts:
            if part is None:
                await asyncio.Event().wait()
            else:
                yield part
        yield b""


async def receive(intake: BodyIntake, *parts: bytes | None) -> bytes:
    return await intake.receive(Sender(*parts))  # type: ignore[arg-type]


def test_a_body_comes_whole() -> None:
    body = json.dumps({"prompt": "x"}).encode()
    assert asyncio.run(receive(BodyIntake(), body[:3], b"", body[3:])) == body


def test_a_client_that_stops_is_told() -> None:
    with pytest.raises(SlowRequestError, match="no byte"):
        asyncio.run(receive(BodyIntake(pause_s=0.01), b"{", None))


def test_what_is_held_is_bounded_and_given_back() -> None:
    async def run() -> None:
        intake = BodyIntake(most_bytes=10)
        stalled = [asyncio.create_task(receive(intake, b"12345", None)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await receive(intake, b"1")
        for task in stalled:
            task.cancel()
        await asyncio.gather(*stalled, return_exceptions=True)
        assert await receive(intake, b"1" * 20) == b"1" * 20, "one alone is always taken"
        assert intake._held == 0

    asyncio.run(run())

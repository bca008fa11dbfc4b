"""Kills from outside: on a schedule, or at drawn moments."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import signal
import time
from typing import Any

from tqdm import tqdm

from octavo.cli.bench.client import BenchClient
from octavo.cli.bench.recovery.processes import Kind, check_worker, family
from octavo.errors import OctavoError

RECOVERY_LIMIT_S = 600.0
"""How long the server may take to be well again before the next kill."""
LOOK_S = 0.02
"""How often to look for the next worker where that is to be killed as soon as it shows."""
KINDS = {Kind.WORKER: 6, Kind.STANDBY: 2, Kind.KEEPER: 1}
"""Kind of process -> how often it is drawn."""
CHASES = 0.3
"""Share of the drawn moments after which the next workers are killed too, each as soon as it shows."""
LONGEST_CHASE = 4


@dataclasses.dataclass(frozen=True)
class Kill:
    """One process that was killed."""

    at_s: float
    """On the clock of the outcomes."""
    kind: Kind = Kind.WORKER
    recovering: bool = False
    """The server was not well yet when it happened."""


async def on_schedule(
    client: BenchClient, count: int, interval_s: float, asking: asyncio.Task[Any], bar: tqdm[Any]
) -> list[Kill]:
    """Kill the worker `count` times, each after `interval_s` seconds in which it was well, while `asking` goes on and the server is there."""
    kills: list[Kill] = []
    while len(kills) < count and await _is_ready_before(client, asking):
        await asyncio.wait([asking], timeout=interval_s)
        if asking.done():
            break
        try:
            pid = int((await client.get("/server_info"))["worker"]["pid"])
        except OctavoError:
            break
        check_worker(pid)
        os.kill(pid, signal.SIGKILL)
        kills.append(Kill(time.perf_counter()))
        bar.update()
        await _until_noticed(client, pid)
    return kills


async def _is_ready_before(client: BenchClient, asking: asyncio.Task[Any]) -> bool:
    """Wait until the server is well, or `asking` has ended, as it does when the server gives up; whether it is well."""
    ready = asyncio.create_task(client.wait_until_ready(RECOVERY_LIMIT_S))
    await asyncio.wait([ready, asking], return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    [ended] = await asyncio.gather(ready, return_exceptions=True)
    return ended is None and not asking.done()


class RandomKiller:
    """Kills worker, standbys and keeper of a server at drawn moments, whether it is well or not.

    Args:
        server: its pid.
        interval_s: between two moments, on average.
        dice: draws moments and victims.
        bar: shows how many there were.
    """

    def __init__(
        self, client: BenchClient, server: int, interval_s: float, dice: random.Random, bar: tqdm[Any]
    ) -> None:
        self._client = client
        self._server = server
        self._interval_s = interval_s
        self._dice = dice
        self._bar = bar
        self.kills: list[Kill] = []

    async def kill(self, count: int) -> None:
        """Kill until it is `count`.

        Raises:
            OctavoError: the server is gone.
        """
        while len(self.kills) < count:
            await asyncio.sleep(self._dice.expovariate(1 / self._interval_s))
            await self._kill_one(self._next_kind())
            if self._dice.random() < CHASES:
                await self._chase(min(count - len(self.kills), self._dice.randint(1, LONGEST_CHASE)))

    def _next_kind(self) -> Kind:
        """One of those that have not been killed yet, then of all: a few kills are of every kind, too."""
        killed = {kill.kind for kill in self.kills}
        kinds = [kind for kind in KINDS if kind not in killed] or list(KINDS)
        return self._dice.choices(kinds, [KINDS[kind] for kind in kinds])[0]

    async def _kill_one(self, kind: Kind) -> None:
        """Kill one of `kind`, if there is one at this moment."""
        found = family(self._server, await self._worker())[kind]
        if found:
            await self._end(self._dice.choice(found), kind)

    async def _chase(self, count: int) -> None:
        """Kill the next `count` workers, each as soon as it shows."""
        before = None
        for _ in range(count):
            while (pid := await self._worker()) == before or pid not in family(self._server, pid)[Kind.WORKER]:
                await asyncio.sleep(LOOK_S)
            await self._end(pid, Kind.WORKER)
            before = pid

    async def _end(self, pid: int, kind: Kind) -> None:
        well = await self._client.is_well()
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.kills.append(Kill(time.perf_counter(), kind, recovering=not well))
        self._bar.update()

    async def _worker(self) -> int:
        return int((await self._client.get("/server_info"))["worker"]["pid"])


async def _until_noticed(client: BenchClient, pid: int) -> None:
    """Wait until the server knows that its worker is gone, so that it is not taken for well."""
    for _ in range(500):
        try:
            if (await client.get("/health"))["worker_pid"] != pid:
                return
        except OctavoError:
            return
        await asyncio.sleep(0.01)

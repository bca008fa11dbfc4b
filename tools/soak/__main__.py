"""`python -m tools.soak --hours 2`: an embedded model under everything at once; exit code 0 if nothing failed, grew or changed."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
from benchmarks.provenance import provenance

from octavo.server.page import EMBEDDED
from tools.soak.processes import WARM_UP_S, Killer, Memory, processes
from tools.soak.traffic import Traffic, broken_sockets, fill_cache

HOST = "127.0.0.1"
CLIENTS = 12
SAMPLE_S = 10.0
TELL_S = 60.0
ANSWER_S = 600.0
"""No answer takes as long, whatever is killed meanwhile."""
PROCESSES = {"server": 1, "worker": 4, "keeper": 1}
"""What a server at rest has: a worker and three standbys."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(EMBEDDED), default="octavo-tiny")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--kill-every", type=float, default=30.0, metavar="SECONDS", help="on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.2, metavar="SECONDS", help="of a client, on average")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found")
    args = parser.parse_args()
    with served(args.model) as (pid, port, log):
        found = asyncio.run(soak(args, pid, port))
        found["server log"] = _strange(log)
    print(json.dumps(found, indent=2))
    if args.json is not None:
        args.json.write_text(json.dumps({**found, "provenance": provenance()}, indent=2) + "\n", encoding="utf-8")
    print("PASS" if found["passed"] else "FAIL")
    return 0 if found["passed"] else 1


@contextlib.contextmanager
def served(model: str) -> Iterator[tuple[int, int, Path]]:
    """A server with the model: its pid, port, and where its output goes."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
        free.close()
        log = Path(folder, "log")
        flags = ["--host", HOST, "--port", str(port), "--cpu-threads", "1", "--max-model-len", "2100"]
        flags += ["--max-worker-restarts", "1000000", "--crash-dir", str(Path(folder, "crashes"))]
        # few enough KV blocks that they run out, and that their index is full before memory is watched
        flags += ["--disable-uvicorn-access-log", "--num-gpu-blocks-override", "4000"]
        with log.open("wb") as out:
            command = [sys.executable, "-m", "octavo.cli.main", "serve", model, *flags]
            server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield server.pid, port, log
        finally:
            server.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(60)
            server.kill()
            server.wait()


async def soak(args: argparse.Namespace, pid: int, port: int) -> dict[str, Any]:
    """Run it, and say what was found."""
    url = f"http://{HOST}:{port}"
    dice = random.Random(args.seed)
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    connector = aiohttp.TCPConnector(limit=0, force_close=False)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector, read_bufsize=2**22) as session:
        await _ready(session, url)
        await fill_cache(url, session)
        traffic, killer, memory = Traffic(url, session, dice), Killer(pid, dice), Memory(pid)
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        end_s = time.monotonic() + 3600 * args.hours
        clients = [asyncio.create_task(_client(traffic, dice, args.pause, port, end_s)) for _ in range(CLIENTS)]
        await asyncio.gather(
            _kill(session, url, killer, args.kill_every, dice, end_s),
            _watch(session, url, memory, end_s),
            _tell(traffic, killer, end_s),
            *clients,
        )
        await _settled(session, url, pid)
        status = await _get(session, f"{url}/server_info")
        slopes = memory.slopes(min(WARM_UP_S, 900 * args.hours))
    left = len(os.listdir(f"/proc/{pid}/fd")) - descriptors
    flat = all(each.flat for each in slopes.values() if each.samples > 9)
    return {
        "hours": args.hours,
        "counts": dict(sorted(traffic.counts.items())),
        "failures": len(traffic.troubles),
        "troubles": traffic.troubles[:20],
        "kills": dict(killer.kills),
        "restarts": status["worker"]["restarts"],
        "memory, MiB per hour": {kind: dataclasses.asdict(each) for kind, each in slopes.items()},
        "memory, MiB at the end": {kind: kept[-1][1] for kind, kept in memory.samples.items()},
        "descriptors more than at the start": left,
        "passed": not traffic.troubles and flat and left < 20,
    }


async def _client(traffic: Traffic, dice: random.Random, pause_s: float, port: int, end_s: float) -> None:
    while time.monotonic() < end_s:
        await traffic.one()
        if dice.random() < 0.02:
            with contextlib.suppress(OSError):
                await broken_sockets(HOST, port, dice)
        await asyncio.sleep(dice.expovariate(1 / pause_s))


async def _kill(
    session: aiohttp.ClientSession, url: str, killer: Killer, every_s: float, dice: random.Random, end_s: float
) -> None:
    while (left_s := end_s - time.monotonic()) > 0:
        await asyncio.sleep(min(left_s, dice.expovariate(1 / every_s)))
        killer.kill(await _worker(session, url))
        if dice.random() < 0.2:  # and the next one as soon as it shows
            killer.kill(await _worker(session, url))


async def _watch(session: aiohttp.ClientSession, url: str, memory: Memory, end_s: float) -> None:
    while time.monotonic() < end_s:
        memory.look(await _worker(session, url))
        await asyncio.sleep(SAMPLE_S)


async def _tell(traffic: Traffic, killer: Killer, end_s: float) -> None:
    told = 0
    while (left_s := end_s - time.monotonic()) > 0:
        asked, kills = sum(traffic.counts.values()), sum(killer.kills.values())
        for trouble in traffic.troubles[told:]:
            print(trouble, flush=True)
        told = len(traffic.troubles)
        print(
            f"{left_s / 60:6.1f} min left, {asked} asked, {kills} kills, {len(traffic.troubles)} failures", flush=True
        )
        await asyncio.sleep(min(TELL_S, left_s))


async def _ready(session: aiohttp.ClientSession, url: str) -> None:
    for _ in range(1200):
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"{url}/health") as response:
                if response.status == 200:
                    return
        await asyncio.sleep(0.1)
    raise SystemExit("the server did not become ready")


async def _settled(session: aiohttp.ClientSession, url: str, pid: int) -> None:
    """Wait until no recovery goes on, and all standbys are back."""
    await _ready(session, url)
    for _ in range(600):
        found = processes(pid)
        if all(len(found[kind]) == count for kind, count in PROCESSES.items()):
            return
        await asyncio.sleep(0.1)


async def _worker(session: aiohttp.ClientSession, url: str) -> int | None:
    try:
        return int((await _get(session, f"{url}/server_info"))["worker"]["pid"])
    except (aiohttp.ClientError, KeyError, TypeError):
        return None


async def _get(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        return await response.json()


def _strange(log: Path) -> list[str]:
    """Lines of the server's output that should not be there, each with what surrounds it."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    places = [place for place, line in enumerate(lines) if "Traceback" in line or " ERROR " in line][:20]
    return ["\n".join(lines[max(0, place - 2) : place + 40]) for place in places]


if __name__ == "__main__":
    sys.exit(main())

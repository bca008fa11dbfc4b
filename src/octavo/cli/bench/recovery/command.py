"""The command `octavo bench recovery`: the same requests undisturbed, then under kills, and what differs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import urllib.parse
from pathlib import Path
from typing import Any

from tqdm import tqdm

from octavo.cli.bench.client import BenchClient, Outcome, add_server_flags, connect
from octavo.cli.bench.recovery import kills, leaks
from octavo.cli.bench.recovery.kills import RandomKiller
from octavo.cli.bench.recovery.load import Load, Payload, ask_all, mixed_requests, uniform_requests
from octavo.cli.bench.recovery.processes import busy_processes
from octavo.cli.bench.recovery.report import Report
from octavo.cli.bench.report import MAX_ERRORS_SHOWN
from octavo.cli.bench.serve import server_vocab_size
from octavo.cli.parsers import Commands, add_command
from octavo.errors import ConfigError, OctavoError

LOCAL = {"127.0.0.1", "localhost", "::1"}


def add_parser(kinds: Commands) -> None:
    parser = add_command(kinds, "recovery", run, "Kill the worker of a server on this machine under load.")
    add_server_flags(parser)
    add = parser.add_argument
    add("--kills", type=int, default=5, metavar="N", help="times the worker is killed; default: 5")
    add(
        "--random-kills",
        type=int,
        metavar="N",
        help="instead of --kills: kill N processes, drawn from worker, standbys and keeper, at drawn moments, during "
        "recoveries too, under requests with mixed sampling that are repeated until all kills are done; "
        "the server must allow as many restarts (--max-worker-restarts)",
    )
    add(
        "--kill-interval",
        type=float,
        default=1.0,
        metavar="X",
        help="seconds of health before each kill, or between random kills on average; default: 1",
    )
    add("--num-prompts", type=int, default=100, metavar="N", help="requests; default: 100")
    add("--concurrency", type=int, metavar="N", help="requests open at once; default: all")
    add("--input-len", type=int, default=128, metavar="N", help="prompt tokens of each, at most; default: 128")
    add("--output-len", type=int, default=256, metavar="N", help="answer tokens of each, at most; default: 256")
    add("--vocab-size", type=int, metavar="N", help="token ids are drawn below it; default: the server's vocabulary")
    add("--load-processes", type=int, default=0, metavar="N", help="busy processes beside it; default: 0")
    add("--seed", type=int, default=0, metavar="N", help="of prompts, answers and random kills; default: 0")
    add("--disable-tqdm", action="store_true", help="no progress bar")
    add("--json", type=Path, metavar="FILE", help="write the numbers")


def run(args: argparse.Namespace) -> int:
    url = args.base_url or f"http://{args.host}:{args.port}"
    if urllib.parse.urlsplit(url).hostname not in LOCAL:
        raise ConfigError("--base-url", f"must be a server on this machine, whose worker can be killed; got {url}")
    for name in ("kills", "random_kills", "kill_interval", "concurrency"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ConfigError("--" + name.replace("_", "-"), f"must be above 0, got {value}")
    if args.load_processes < 0:
        raise ConfigError("--load-processes", f"must be at least 0, got {args.load_processes}")
    with busy_processes(args.load_processes):
        report = asyncio.run(_run(args))
    for error in report.errors[:MAX_ERRORS_SHOWN]:
        print(f"request failed: {error}")
    print(*report.lines(), sep="\n")
    if args.json is not None:
        args.json.write_text(json.dumps(report.numbers(), indent=2) + "\n", encoding="utf-8")
    return 0 if report.passed else 1


async def _run(args: argparse.Namespace) -> Report:
    async with connect(args) as client:
        if args.ready_check_timeout_sec > 0:
            await client.wait_until_ready(args.ready_check_timeout_sec)
        server = int((await client.get("/server_info"))["pid"])
        payloads = await _payloads(args, client)
        plain = Load(await ask_all(client, payloads, args.concurrency))
    before = await leaks.settled(server)
    async with connect(args) as client:
        asked = args.kills if args.random_kills is None else args.random_kills
        with tqdm(total=asked, desc="Kills", unit="kill", disable=args.disable_tqdm) as bar:
            if args.random_kills is None:
                killed = await _under_scheduled_kills(args, client, payloads, bar)
            else:
                killed = await _under_random_kills(args, client, server, payloads, bar)
    async with connect(args) as client:
        gave_up = not await _recovers(client)
    left = {} if gave_up else await leaks.left(server, before)
    return Report(plain, killed, asked, left, gave_up)


async def _under_scheduled_kills(
    args: argparse.Namespace, client: BenchClient, payloads: list[Payload], bar: tqdm[Any]
) -> Load:
    """Ask once, while the worker is killed."""
    asking = asyncio.create_task(ask_all(client, payloads, args.concurrency))
    killed = await kills.on_schedule(client, args.kills, args.kill_interval, asking, bar)
    return Load(await asking, killed)


async def _under_random_kills(
    args: argparse.Namespace, client: BenchClient, server: int, payloads: list[Payload], bar: tqdm[Any]
) -> Load:
    """Ask again and again, until all kills are done or the server is gone."""
    killer = RandomKiller(client, server, args.kill_interval, random.Random(args.seed), bar)
    killing = asyncio.create_task(killer.kill(args.random_kills))
    outcomes: list[Outcome] = []
    while not killing.done():
        outcomes += await ask_all(client, payloads, args.concurrency)
    await asyncio.gather(killing, return_exceptions=True)
    if (error := killing.exception()) is not None and not isinstance(error, OctavoError):
        raise error
    return Load(outcomes, killer.kills)


async def _payloads(args: argparse.Namespace, client: BenchClient) -> list[Payload]:
    make = uniform_requests if args.random_kills is None else mixed_requests
    common: dict[str, Any] = {"model": args.model or await client.model()}
    requests = make(
        count=args.num_prompts,
        input_len=args.input_len,
        output_len=args.output_len,
        vocab_size=args.vocab_size or await server_vocab_size(client),
        seed=args.seed,
    )
    return [{**common, **request} for request in requests]


async def _recovers(client: BenchClient) -> bool:
    """Whether the server is well, now or once it has recovered."""
    with contextlib.suppress(OctavoError, TimeoutError):
        async with asyncio.timeout(kills.RECOVERY_LIMIT_S):
            while (await client.get("/server_info"))["worker"]["alive"]:
                if await client.is_well():
                    return True
                await asyncio.sleep(kills.LOOK_S)
    return False
